"""Small layers that the block is made of."""

from typing import cast

import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from unireplknet.nn.feedforward import global_response_norm
from unireplknet.nn.reparam import BatchNorm, fold_bn, fold_dtype
from unireplknet.ops import depthwise_conv2d


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


class SqueezeExcite(timm.layers.SqueezeExcite):
    """Channel attention, timm's, its two 1x1 convolutions computed as linear layers of the mean vector.

    On maps of a single pixel a convolution and its gradients cost several times as much, mostly in call overhead.

    Args:
        channels: Channels C.
        rd_channels: Channels between the two layers.
        kwargs: As for timm's.
    """

    @property
    def is_plain(self) -> bool:
        """Whether a fused computation may stand in for the layers: timm's default ones, without hooks."""
        layers = [self._modules[name] for name in ("fc1", "bn", "act", "fc2", "gate")]
        kinds = (nn.Conv2d, nn.Identity, nn.ReLU, nn.Conv2d, timm.layers.Sigmoid)
        biased = all(layers[i]._parameters["bias"] is not None for i in (0, 3))
        return not self.add_maxpool and biased and all(map(is_untouched, layers, kinds))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of x of shape (B, C, H, W)."""
        if not self.is_plain:
            return super().forward(x)
        squeezed = F.relu(F.linear(x.mean((2, 3)), self.fc1.weight.flatten(1), self.fc1.bias))
        gate = self.gate(F.linear(squeezed, self.fc2.weight.flatten(1), self.fc2.bias))
        return x * gate[:, :, None, None]


class GlobalResponseNorm(nn.Module):
    """Global Response Normalization over channels-last maps.

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
        return global_response_norm(x.permute(0, 3, 1, 2), self.weight, self.bias, self.eps).permute(0, 2, 3, 1)

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
        if isinstance(self.bn, BatchNorm):
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
def fold_into(conv: nn.Conv2d, norm: BatchNorm) -> None:
    """Fold a BatchNorm into the convolution before it, in place.

    Args:
        conv: The convolution, with or without a bias so far.
        norm: The norm; whoever calls removes it.
    """
    weight = conv.weight.to(fold_dtype(conv.weight))
    set_weight_and_bias(conv, *fold_bn(weight, conv.bias, norm))


def is_untouched(module: nn.Module, *classes: type[nn.Module]) -> bool:
    """Whether a module is exactly of one of the classes and nobody hooked into it.

    A fused computation may stand in for the call of such a module, and of no other: a hook, a parametrization,
    a quantised or adapted replacement all expect to be called.
    """
    return type(module) in classes and not (
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def check_norm(name: str, norm: nn.Module) -> None:
    """Check that a norm can be folded into the layer before it.

    Args:
        name: The norm's name, for the message.
        norm: The norm.

    Raises:
        ValueError: It is no BatchNorm, or one without running statistics.
    """
    if not isinstance(norm, BatchNorm):
        raise ValueError(f"cannot merge: {name} is a {_kind(type(norm))}, expected a BatchNorm")
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(f"cannot merge: {name} has no running statistics (track_running_stats=False)")


def check_layer(name: str, layer: nn.Module, kind: type[nn.Module]) -> None:
    """Check that a layer is what a merge expects, and nothing around it or derived from it.

    Args:
        name: The layer's name, for the message.
        layer: The layer, maybe with parametrizations.
        kind: What it should be.

    Raises:
        ValueError: It is something else, such as an adapter.
    """
    found = type(layer).__mro__[1] if parametrize.is_parametrized(layer) else type(layer)
    if found is not kind:
        raise ValueError(
            f"cannot merge: {name} is a {_kind(found)}, expected a {kind.__name__};"
            " merge an adapter into its layer first (peft: merge_and_unload)"
        )


def _kind(found: type) -> str:
    return f"{found.__module__}.{found.__qualname__}"


def make_plain(layer: nn.Module) -> None:
    """Turn parameters that are computed at each call into plain ones, in place.

    Parametrizations, pruning, and weight and spectral norm in their older form are covered.

    Args:
        layer: The layer.
    """
    if parametrize.is_parametrized(layer):
        for name in list(cast(nn.ModuleDict, layer.parametrizations)):
            parametrize.remove_parametrizations(layer, name)
    for hook in list(layer._forward_pre_hooks.values()):
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(layer, hook._tensor_name)
        elif isinstance(hook, WeightNorm):
            remove_weight_norm(layer, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(layer, hook.name)
