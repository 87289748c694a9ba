"""The depthwise convolution: one public function, private backends."""

from unireplknet.ops.backend import backend_report, use_backend
from unireplknet.ops.depthwise import depthwise_conv2d
from unireplknet.ops.triton.cache import constant_weights

__all__ = ["backend_report", "constant_weights", "depthwise_conv2d", "use_backend"]
