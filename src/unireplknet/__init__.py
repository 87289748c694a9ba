"""UniRepLKNet: one large-kernel ConvNet for images, sound, video, point clouds and time series."""

from unireplknet._version import __version__
from unireplknet.models import UniRepLKNet, create_model, list_models, load_weights, save_weights
from unireplknet.nn import reparameterize
from unireplknet.ops import depthwise_conv2d

__all__ = [
    "UniRepLKNet",
    "__version__",
    "create_model",
    "depthwise_conv2d",
    "list_models",
    "load_weights",
    "reparameterize",
    "save_weights",
]
