"""A package outside of UniRepLKNet: it measures the wavelength of ripples."""
