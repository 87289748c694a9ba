"""The depthwise convolution: one public function, private backends."""

from unireplknet.ops.depthwise import backend_report, depthwise_conv2d, use_backend

__all__ = ["backend_report", "depthwise_conv2d", "use_backend"]
