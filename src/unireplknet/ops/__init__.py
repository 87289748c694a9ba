"""The depthwise convolution: one public function, private backends."""

from unireplknet.ops.depthwise import depthwise_conv2d

__all__ = ["depthwise_conv2d"]
