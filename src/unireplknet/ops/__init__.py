"""The depthwise convolution: one public function, private backends."""

from unireplknet.ops.depthwise import backend_report, depthwise_conv2d, depthwise_grad_weight, use_backend
from unireplknet.ops.triton.cache import constant_weights

__all__ = ["backend_report", "constant_weights", "depthwise_conv2d", "depthwise_grad_weight", "use_backend"]
