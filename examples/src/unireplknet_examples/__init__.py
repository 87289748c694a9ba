"""Examples for UniRepLKNet: data sets that install from package archives, and recipes that learn them on a laptop.

The package uses nothing that another one could not: it adds to the registries of UniRepLKNet by entry points.
"""
