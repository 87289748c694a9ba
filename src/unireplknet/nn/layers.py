"""Small layers that the block is made of."""

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from unireplknet.nn.reparam import fold_bn, fold_dtype
from unireplknet.ops import depthwise_conv2d


@register_notrace_module  # the operation looks at shapes
class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution, stride 1, "same" zero padding, computed by :func:`unireplknet.depthwise_conv2d`.

    Args:
        dim: Channels C.
        kernel_size: Odd kernel size K.
        dilation: Dilation r.
        bias: Whether to add a bias.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int,
        dilation: int = 1,
        bias: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        padding = (kernel_size - 1) // 2 * dilation
        super().__init__(
            dim,
            dim,
            kernel_size,
            padding=padding,
            dilation=dilation,
            groups=dim,
            bias=bias,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x of shape (B, C, H, W)."""
        return depthwise_conv2d(x, self.weight, self.bias, self.dilation[0])


@register_notrace_module  # reads the dtype of its input
class GlobalResponseNorm(nn.Module):
    """Global Response Normalization over channels-last maps, statistics in float32.

    Half-precision activations near 1e4 have spatial norms that half precision cannot hold, so the norms and
    their ratio stay in float32 (float64 for float64 input) and only the resulting factor is cast back.

    Args:
        dim: Channels.
        eps: Added to the mean norm.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Source:
        ConvNeXt V2, section 3; used between the two pointwise layers of the UniRepLKNet block.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        eps: float = 1e-6,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(dim, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(dim, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x of shape (B, H, W, dim); same shape out."""
        stats = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=stats)
        ratio = norm / (norm.mean(dim=-1, keepdim=True) + self.eps)
        x = x * (1 + self.weight * ratio).to(x.dtype)
        return x if self.bias is None else x + self.bias.to(x.dtype)

    def extra_repr(self) -> str:
        """Shown in the model's repr."""
        return f"{self.weight.shape[0]}, eps={self.eps}, bias={self.bias is not None}"


class ConvBNReLU(nn.Sequential):
    """Convolution without bias, BatchNorm and an optional ReLU; merges into one convolution.

    Args:
        conv: The convolution.
        relu: Whether a ReLU follows.
        device: Device of the norm's parameters.
        dtype: Dtype of the norm's parameters.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        relu: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.bn: nn.Module = nn.BatchNorm2d(conv.out_channels, device=device, dtype=dtype)
        self.act = nn.ReLU() if relu else nn.Identity()

    def reparameterize(self) -> "ConvBNReLU":
        """Fold the norm into the convolution, in place."""
        if isinstance(self.bn, nn.BatchNorm2d):
            fold_into(self.conv, self.bn)
            self.bn = nn.Identity().train(self.training)
        return self


def set_weight_and_bias(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Give a layer merged values, keeping its dtype, device and whether it is trained.

    Args:
        layer: The layer, with or without a bias so far.
        weight: New weight of the layer's weight shape.
        bias: New bias of shape (C_out,).
    """
    old = layer.weight
    layer.weight = nn.Parameter(weight.to(old.dtype).contiguous(), requires_grad=old.requires_grad)
    layer.bias = nn.Parameter(bias.to(old.dtype).contiguous(), requires_grad=old.requires_grad)


@torch.no_grad()
def fold_into(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Fold a BatchNorm into the convolution before it, in place.

    Args:
        conv: The convolution, with or without a bias so far.
        norm: The norm; whoever calls removes it.
    """
    weight = conv.weight.to(fold_dtype(conv.weight))
    set_weight_and_bias(conv, *fold_bn(weight, conv.bias, norm))
