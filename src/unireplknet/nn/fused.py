"""The network on a card, in few passes over its maps: when that is possible, and how.

The modules composed one after the other are the definition. What runs here equals it up to rounding, statistics
included, but launches a fifth of the kernels and moves half of the bytes. `can_fuse` decides.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from unireplknet.nn.batch_stats import frozen_statistics, update_all_statistics
from unireplknet.nn.dilated_reparam import DilatedReparamConv
from unireplknet.nn.layers import DepthwiseConv2d, GlobalResponseNorm, SqueezeExcite, is_untouched
from unireplknet.ops.backend import why_not_fused
from unireplknet.ops.precision import compute_dtype, without_autocast

if TYPE_CHECKING:
    from unireplknet.nn.blocks import UniRepLKBlock


class _Parts(NamedTuple):
    """What a block is made of, collected once a call."""

    convs: list[DepthwiseConv2d]
    branch_norms: list[nn.BatchNorm2d]
    norm: nn.BatchNorm2d | None
    squeeze: nn.Conv2d
    excite: nn.Conv2d
    first: nn.Linear
    grn: GlobalResponseNorm
    second: nn.Linear
    norm2: nn.BatchNorm2d | None
    layer_scale: Tensor | None
    drop_path: nn.Module

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        """Those of the branches first, then the outer one and the last."""
        return [*self.branch_norms, *(norm for norm in (self.norm, self.norm2) if norm is not None)]

    @property
    def sizes(self) -> list[int]:
        """Kernel size and dilation of each convolution in turn."""
        return [size for conv in self.convs for size in (conv.kernel_size[0], conv.dilation[0])]

    @property
    def squeeze_excite(self) -> list[Tensor]:
        """SE's parameters."""
        return [p for layer in (self.squeeze, self.excite) for p in (layer.weight, cast(Tensor, layer.bias))]


def can_fuse(block: "UniRepLKBlock", x: Tensor) -> str | None:
    """Whether the fused kernels can stand in for a block's modules in this call.

    Args:
        block: The block.
        x: Its input, of shape (B, C, H, W).

    Returns:
        None if they can, else a sentence that says why not.
    """
    parts = fusion(block, x)
    return parts if isinstance(parts, str) else None


def fusion(block: "UniRepLKBlock", x: Tensor) -> _Parts | str:
    """The parts of a block that `fused_block` needs, or a sentence that says why it cannot be used.

    Args:
        block: The block.
        x: Its input, of shape (B, C, H, W).
    """
    reason = why_not_fused(x)
    if reason is not None:
        return reason
    parts = _collect(block)
    if isinstance(parts, str):
        return parts
    return _why_not_in_this_mode(block, parts, x) or parts


def _collect(block: "UniRepLKBlock") -> _Parts | str:
    # Through the dictionaries of modules: a hundred attribute look-ups a block would take longer than its launches.
    children: dict[str, Any] = block._modules
    depthwise, extra, norm, norm2 = (children[name] for name in ("dwconv", "extra", "norm", "norm2"))
    first, act, grn, second = (children[name] for name in ("pwconv1", "act", "grn", "pwconv2"))
    convs: list[DepthwiseConv2d] = []
    branch_norms: list[nn.BatchNorm2d] = []
    if type(depthwise) is DilatedReparamConv:
        branches: Any = depthwise._modules["branches"]
        for branch in branches._modules.values():
            if not branch.untouched:
                return "a branch has a hook or was replaced"
            convs.append(branch._modules["conv"])
            branch_norms.append(branch._modules["bn"])
        convs_untouched = is_untouched(depthwise, DilatedReparamConv) and depthwise.dilation == 1
    else:
        convs.append(depthwise)
        convs_untouched = is_untouched(depthwise, DepthwiseConv2d) and depthwise.dilation == (1, 1)
    if not convs_untouched:
        return "the depthwise layer is missing or dilated, has a hook or was replaced"
    if not is_untouched(extra, SqueezeExcite) or not extra.is_plain:
        return "there is something else than a plain SE after the norm"
    for part, kinds in (
        (norm, (nn.BatchNorm2d, nn.Identity)),
        (first, (nn.Linear,)),
        (act, (nn.GELU,)),
        (grn, (GlobalResponseNorm,)),
        (second, (nn.Linear,)),
        (norm2, (nn.BatchNorm2d, nn.Identity)),
        (children["drop_path"], (DropPath, nn.Identity)),
    ):
        if not is_untouched(part, *kinds):
            return f"a {type(part).__name__} has a hook, was replaced or is synchronized over processes"
    if act.approximate != "none" or first.bias is None:
        return "the activation is not the exact GELU, or the layer before it has no bias"
    return _Parts(
        convs,
        branch_norms,
        norm if isinstance(norm, nn.BatchNorm2d) else None,
        extra._modules["fc1"],
        extra._modules["fc2"],
        first,
        grn,
        second,
        norm2 if isinstance(norm2, nn.BatchNorm2d) else None,
        block.layer_scale,
        children["drop_path"],
    )


def _why_not_in_this_mode(block: "UniRepLKBlock", parts: _Parts, x: Tensor) -> str | None:
    norms = parts.norms
    if not all(type(norm) is nn.BatchNorm2d and norm.affine for norm in norms):
        return "a norm is synchronized over processes or has no weight"
    if all(not norm.training and norm.running_mean is not None for norm in norms):
        if not torch.is_grad_enabled():
            return None
        wants = x.requires_grad or any(parameter.requires_grad for parameter in block.parameters())
        return "gradients through running statistics, or of a merged block, take the modules" if wants else None
    merged = parts.norm is None or parts.norm2 is None or parts.grn.bias is None
    if merged or cast(Tensor | None, parts.second.bias) is not None:
        return "a part of the block is merged"
    if any(conv.bias is not None for conv in parts.convs):
        return "the depthwise layer is merged, or has a bias"
    momentum, eps = norms[0].momentum, norms[0].eps
    if momentum is None or not all(norm.training and norm.momentum == momentum for norm in norms):
        return "some norms use running statistics, or average over all batches, or differ in momentum"
    if not all(norm.eps == eps for norm in parts.branch_norms):
        return "the branches' norms differ in eps"
    if x.shape[0] * x.shape[2] * x.shape[3] == 1:
        return "there is one value a channel"
    return None


def fused_block(block: "UniRepLKBlock", parts: _Parts, x: Tensor) -> Tensor:
    """Run a block in few passes.

    Args:
        block: The block.
        parts: From `fusion`.
        x: Its input, of shape (B, C, H, W).

    Returns:
        Its output, of the same shape.
    """
    x = x.to(compute_dtype(x)).contiguous()
    with without_autocast(x):
        is_training = parts.norm is not None and parts.norm.training
        return _train(block, parts, x) if is_training else _infer(parts, x, block.channels_last)


def _keep(drop_path: nn.Module, x: Tensor) -> Tensor | None:
    """Drop path's factor of each sample, drawn as timm draws it, so that equal seeds give equal networks."""
    if not isinstance(drop_path, DropPath) or not drop_path.training or drop_path.drop_prob == 0:
        return None
    kept = 1 - drop_path.drop_prob
    factor = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(kept)
    return factor.div_(kept).flatten() if kept > 0 and drop_path.scale_by_keep else factor.flatten()


def _train(block: "UniRepLKBlock", parts: _Parts, x: Tensor) -> Tensor:
    norms, outer, last = parts.branch_norms, cast(nn.BatchNorm2d, parts.norm), cast(nn.BatchNorm2d, parts.norm2)
    parameters = [
        *(conv.weight for conv in parts.convs),
        *(norm.weight for norm in norms),
        *(norm.bias for norm in norms),
        outer.weight,
        outer.bias,
        *parts.squeeze_excite,
        parts.first.weight,
        parts.first.bias,
        parts.grn.weight,
        cast(Tensor, parts.grn.bias),
        parts.second.weight,
        last.weight,
        last.bias,
        *([] if parts.layer_scale is None else [parts.layer_scale]),
    ]
    eps = [norms[0].eps if norms else 0.0, outer.eps, parts.grn.eps, last.eps]
    # Second derivatives are those of the modules; under a compiler there are none.
    definition = None if torch.compiler.is_compiling() else block
    keep = _keep(parts.drop_path, x)
    out, *stats = _Block.apply(x, keep, parts.sizes, len(norms), eps, block.channels_last, definition, *parameters)
    update_all_statistics([*norms, outer, last], stats)
    return out


class _Block(torch.autograd.Function):
    """A training step's block. Saves its input, the branches' outputs and three maps of the pointwise half."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        keep: Tensor | None,
        sizes: list[int],
        branches: int,
        eps: list[float],
        channels_last: bool,
        definition: "UniRepLKBlock | None",
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        count = len(sizes) // 2  # the branches, or one plain kernel
        weights, rest = parameters[:count], parameters[count + 2 * branches :]
        flat = torch.cat([p.flatten() for p in parameters[: count + 2 * branches]])
        channels = x.shape[1]
        taps, *norms = flat.split([sum(w.numel() for w in weights), *[branches * channels] * 2])
        branch_gamma, branch_beta = (norm.view(branches, channels) if branches else None for norm in norms)
        gamma, beta, *se = rest[:6]
        weight1, bias1, grn_gamma, grn_beta, weight2, gamma2, beta2 = rest[6:13]
        layer_scale = rest[13] if len(rest) > 13 else None
        weight1, bias1, weight2 = _cast([weight1, bias1, weight2], x.dtype)
        u, *kept = torch.ops.unireplknet.mix(x, taps, sizes, branch_gamma, branch_beta, eps[0], gamma, beta, eps[1], se)
        out, h, y, norm, mean, stats = torch.ops.unireplknet.feed_forward(
            u,
            x,
            weight1,
            bias1,
            grn_gamma,
            grn_beta,
            eps[2],
            weight2,
            gamma2,
            beta2,
            eps[3],
            layer_scale,
            keep,
            channels_last,
        )
        statistics = kept[2], kept[3], stats
        ctx.mark_non_differentiable(*statistics)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            x, keep, taps, branch_gamma, u, *kept, h, y, norm, mean, stats, weight1, weight2, *parameters
        )
        ctx.sizes, ctx.branches, ctx.definition = sizes, branches, definition
        return out, *statistics

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        x, keep, taps, branch_gamma, u, *rest = ctx.saved_tensors
        kept, (h, y, norm, mean, stats, weight1, weight2), parameters = rest[:7], rest[7:14], rest[14:]
        if grad is None:
            return (None,) * (7 + len(parameters))
        if torch.is_grad_enabled() and ctx.definition is not None:
            return _differentiable_backward(ctx.definition, x, keep, parameters, grad)
        grad = grad if grad.is_contiguous() else torch.ops.unireplknet.contiguous(grad)
        count = len(ctx.sizes) // 2
        rest = parameters[count + 2 * ctx.branches :]
        gamma, beta, *se = rest[:6]
        grn_gamma, grn_beta, _, gamma2, beta2 = rest[8:13]
        layer_scale = rest[13] if len(rest) > 13 else None
        grad_u, *pointwise, grad_scale = torch.ops.unireplknet.feed_forward_backward(
            grad, u, h, y, norm, mean, stats, weight1, grn_gamma, grn_beta, weight2, gamma2, beta2, layer_scale, keep
        )
        grad_x, grad_taps, grad_branch_norms, grad_norm, *grad_se = torch.ops.unireplknet.mix_backward(
            grad_u, grad, [x, *kept], taps, ctx.sizes, branch_gamma, gamma, beta, se
        )
        weights = parameters[:count]
        depthwise = [
            part.view(weight.shape)
            for part, weight in zip(grad_taps.split([w.numel() for w in weights]), weights, strict=True)
        ]
        return (
            grad_x,
            *[None] * 6,
            *depthwise,
            *(grad for norms in grad_branch_norms.unbind() for grad in norms.unbind()),
            *grad_norm.to(gamma.dtype).unbind(),
            *grad_se,
            *pointwise,
            *([] if layer_scale is None else [grad_scale]),
        )


def _cast(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The tensors in another type, converted in one launch."""
    if all(tensor.dtype == dtype for tensor in tensors):
        return tensors
    results = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(results, tensors)
    return results


def _differentiable_backward(
    block: "UniRepLKBlock", x: Tensor, keep: Tensor | None, parameters: list[Tensor], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The same backward pass through the modules, whose own derivative PyTorch knows."""
    wanted = [t for t in (x, *parameters) if t.requires_grad]
    with frozen_statistics(block):
        y = block.branch(x)
        out = x + (y if keep is None else y * keep[:, None, None, None])
    grads = iter(torch.autograd.grad(out, wanted, grad, create_graph=True, allow_unused=True))
    grad_x, *grad_parameters = (next(grads) if t.requires_grad else None for t in (x, *parameters))
    return grad_x, *[None] * 6, *grad_parameters


def _infer(parts: _Parts, x: Tensor, channels_last: bool) -> Tensor:
    dtype = x.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    taps, bias, branch_scale = parts.convs[0].weight, parts.convs[0].bias, None
    if parts.branch_norms:
        taps = torch.cat([conv.weight.flatten() for conv in parts.convs])
        running = [_running(norm, wide) for norm in parts.branch_norms]
        gamma, shift = (
            torch.stack([p.to(wide) for p in group])
            for group in zip(*((norm.weight, norm.bias) for norm in parts.branch_norms), strict=True)
        )
        branch_scale = torch.stack([rstd for _, rstd in running]) * gamma
        bias = (shift - torch.stack([mean for mean, _ in running]) * branch_scale).sum(0)
    first, second, grn = parts.first, parts.second, parts.grn
    return torch.ops.unireplknet.infer(
        x,
        taps,
        parts.sizes,
        branch_scale,
        bias,
        *_affine(parts.norm, wide),
        parts.squeeze_excite,
        first.weight.to(dtype),
        first.bias.to(dtype),
        grn.weight,
        grn.bias,
        grn.eps,
        second.weight.to(dtype),
        None if second.bias is None else second.bias.to(dtype),
        *_affine(parts.norm2, wide),
        parts.layer_scale,
        channels_last,
        # What a compiled network allocates may be a CUDA graph's memory, and cannot be kept.
        not torch.compiler.is_compiling(),
    )


def _running(norm: nn.BatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None, "a norm in eval mode has running statistics"
    assert norm.running_var is not None, "a norm in eval mode has running statistics"
    return norm.running_mean.to(dtype), torch.rsqrt(norm.running_var.to(dtype) + norm.eps)


def _affine(norm: nn.BatchNorm2d | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Statistics (2, C), weight and bias of a norm in eval mode; nothing of one that is merged."""
    if norm is None:
        return None, None, None
    return torch.stack(_running(norm, dtype)), norm.weight, norm.bias
