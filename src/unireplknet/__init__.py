"""UniRepLKNet: one large-kernel ConvNet for images, sound, video, point clouds and time series."""

from unireplknet._version import __version__
from unireplknet.ops import depthwise_conv2d

__all__ = ["__version__", "depthwise_conv2d"]
