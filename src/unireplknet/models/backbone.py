"""UniRepLKNet: the backbone and its classifier."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from timm.layers import (
    LayerNorm2d,
    NormMlpClassifierHead,
    calculate_drop_path_rates,
    get_device_dtype,
    trunc_normal_,
)
from timm.models import named_apply
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unireplknet.models.weights import WEIGHTS_FILE, checkpoint_filter_fn, is_released, load_weights, save_weights
from unireplknet.nn.batch_stats import deferred_statistics, frozen_statistics
from unireplknet.nn.blocks import Downsample, Extra, Stem, UniRepLKBlock, reparameterize
from unireplknet.nn.dilated_reparam import DilatedReparamConv
from unireplknet.nn.reparam import BatchNorm, Branches

STAGES = 4


class Stage(nn.Module):
    """A downsampling layer (none in the first stage) and a row of blocks.

    Args:
        in_dim: Channels before the stage.
        dim: Channels C of the stage.
        kernel_sizes: Depthwise kernel size of each block.
        drop_paths: Drop-path rate of each block.
        branches: Branches by kernel size; sizes not named take the default.
        stride: Stride of the downsampling layer; None for no such layer.
        dilations: Dilation of the downsampling layer, and of the blocks.
        channels_last: Whether the next stage's convolution reads the stage's map, see :class:`UniRepLKBlock`.
        block_kwargs: Passed to every :class:`UniRepLKBlock`.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        kernel_sizes: Sequence[int],
        drop_paths: Sequence[float],
        branches: Mapping[int, Branches],
        stride: int | None,
        dilations: tuple[int, int],
        channels_last: bool,
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        dd = {key: block_kwargs.get(key) for key in ("device", "dtype")}
        self.grad_checkpointing = False
        self.downsample = nn.Identity() if stride is None else Downsample(in_dim, dim, stride, dilations[0], **dd)
        self.blocks = nn.Sequential(
            *(
                UniRepLKBlock(
                    dim,
                    k,
                    branches.get(k),
                    drop_path=rate,
                    dilation=dilations[1],
                    channels_last=channels_last and i == len(kernel_sizes) - 1,
                    **block_kwargs,
                )
                for i, (k, rate) in enumerate(zip(kernel_sizes, drop_paths, strict=True))
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (B, C_in, H, W) to (B, C, H', W')."""
        x = self.downsample(x)
        if self.grad_checkpointing and torch.is_grad_enabled():
            for block in self.blocks:
                x = _checkpointed(block, x)
            return x
        return self.blocks(x)


class _Step(NamedTuple):
    """How one stage goes on from the one before."""

    stride: int
    dilations: tuple[int, int]
    reduction: int


def _steps(stem_stride: int, output_stride: int | None) -> list[_Step]:
    largest = stem_stride * 2 ** (STAGES - 1)
    strides = [stem_stride * 2**i for i in range(STAGES)]
    if output_stride is not None and output_stride not in strides:
        raise ValueError(f"output_stride is {output_stride}, expected one of {', '.join(map(str, strides))}")
    steps = [_Step(1, (1, 1), stem_stride)]
    for _ in range(STAGES - 1):
        (_, (_, dilation), reduction) = steps[-1]
        if reduction < (output_stride or largest):
            steps.append(_Step(2, (dilation, dilation), 2 * reduction))
        else:
            steps.append(_Step(1, (dilation, 2 * dilation), reduction))
    return steps


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block without keeping its activations; the second run leaves running statistics alone."""
    if torch.compiler.is_compiling():  # Dynamo takes no context here: statistics then count each batch twice
        return checkpoint(block, x, use_reentrant=False)
    contexts = lambda: (nullcontext(), frozen_statistics(block))  # noqa: E731
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


class UniRepLKNet(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="unireplknet",
    license="apache-2.0",
    paper_url="https://arxiv.org/abs/2311.15599",
):
    """A large-kernel ConvNet for any C' x H x W map.

    ``save_pretrained(folder)`` writes ``config.json`` and ``model.safetensors``, and ``from_pretrained`` restores
    the network from such a folder or a Hub id, in training or merged form, in eval mode.

    Args:
        in_chans: Channels C' of the input map.
        num_classes: Classes; 0 for no classifier.
        global_pool: Pooling before the head, a name that timm knows; "" for none.
        depths: Blocks of each of the four stages.
        dims: Channels of each stage.
        kernel_sizes: Kernel sizes of each stage, one entry a block; a single number serves a whole stage. 0 is a
            block without depthwise layer, from 7 on a Dilated Reparam Block is used (guideline 3 and 4).
        branches: Branches (k, r) of the Dilated Reparam Block by kernel size K, where they should differ from
            the default; an empty list gives a plain kernel (guideline 2).
        extra: Extra structure of the block: "se", or "none", "bottleneck", "pointwise", "depthwise" (guideline 1).
        stem_stride: Stride of the stem: 4, or 2 or 1 for small maps.
        output_stride: Stride of the last stage's features, a power of 2 from ``stem_stride`` to 8 times that; stages
            that would go beyond it keep their resolution and dilate their kernels instead. None for the largest.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Drop-path rate of the last block; it grows linearly from 0.
        layer_scale_init: Initial layer scale; None for none.
        head_init_scale: Factor on the classifier's initial weights.
        feature_norms: Give every stage's output as a feature a channel LayerNorm of its own, as the published
            segmenters and detectors do; the next stage and the classifier see it without.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        ValueError: If the lists do not fit each other, or a kernel or branch is impossible.

    Source:
        Section 3 of the paper; figure 3.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (3, 3, 18, 3),
        dims: Sequence[int] = (80, 160, 320, 640),
        kernel_sizes: Sequence[int | Sequence[int]] = (3, 13, (13, 3) * 9, 13),
        branches: Mapping[int, Branches] | None = None,
        extra: Extra = "se",
        stem_stride: int = 4,
        output_stride: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_scale_init: float | None = 1e-6,
        head_init_scale: float = 1.0,
        feature_norms: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.num_classes = num_classes
        branches = {int(k): pairs for k, pairs in (branches or {}).items()}  # JSON makes strings of the keys
        kernels = _kernel_lists(depths, dims, kernel_sizes)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)

        steps = _steps(stem_stride, output_stride)

        self.stem = Stem(in_chans, dims[0], stem_stride, **dd)
        self.stages = nn.Sequential(
            *(
                Stage(
                    dims[max(i - 1, 0)],
                    dims[i],
                    kernels[i],
                    rates[i],
                    branches,
                    stride=steps[i].stride if i > 0 else None,
                    dilations=steps[i].dilations,
                    channels_last=i < STAGES - 1,
                    extra=extra,
                    layer_scale_init=layer_scale_init,
                    **dd,
                )
                for i in range(STAGES)
            )
        )
        self.feature_norms = nn.ModuleList(LayerNorm2d(dim, **dd) for dim in dims) if feature_norms else None
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": dims[i], "reduction": steps[i].reduction, "module": f"stages.{i}"} for i in range(STAGES)
        ]
        self.num_features = dims[-1]
        self.head = NormMlpClassifierHead(
            dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, norm_layer=LayerNorm2d, **dd
        )
        named_apply(_init_weights, self)
        if num_classes:
            with torch.no_grad():
                self.head.fc.weight.mul_(head_init_scale)

    @property
    def head_hidden_size(self) -> int:
        """Features that reach the classifier."""
        return self.head.num_features

    @property
    def merged(self) -> bool:
        """Whether no parallel branch and no BatchNorm is left, see :meth:`reparameterize`."""
        return not any(isinstance(m, DilatedReparamConv | BatchNorm) for m in self.modules())

    def reparameterize(self) -> "UniRepLKNet":
        """Merge branches, BatchNorms, layer scale and GRN's bias into the layers beside them, in place.

        Device, dtype, ``requires_grad`` and mode are kept; merging again changes nothing. Outputs equal those
        of the network in eval mode up to rounding.

        Returns:
            The model.

        Source:
            Section 3.2.2 of the paper, extended to all norms as in the released merged files.
        """
        return reparameterize(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map x of shape (B, C', H, W) to the last stage's features (B, 8C, H/32, W/32), rounded up."""
        with self._statistics():
            return self.stages(self.stem(x))

    def _statistics(self) -> AbstractContextManager[None]:
        """In a training step, one update of all running statistics in place of one a block."""
        return deferred_statistics() if self.training and not torch.compiler.is_compiling() else nullcontext()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool, normalise and classify features of shape (B, 8C, H', W').

        Args:
            x: Features of the last stage.
            pre_logits: Return the classifier's input of shape (B, 8C) instead of logits.

        Returns:
            Logits of shape (B, num_classes).
        """
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (B, C', H, W) to logits of shape (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the stages' features, as timm defines it.

        Args:
            x: Input of shape (B, C', H, W).
            indices: Stages to take: the last n, a list, or None for all.
            norm: Accepted for timm's sake; a network that was built with ``feature_norms`` always uses them.
            stop_early: Run no stage beyond the last one taken.
            output_fmt: Only "NCHW".
            intermediates_only: Return the list alone.

        Returns:
            The list of features, or the last stage's features and the list.

        Raises:
            ValueError: For another ``output_fmt`` or a stage that does not exist.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}, expected 'NCHW'")
        take = _take_indices(len(self.stages), indices)
        intermediates = []
        with self._statistics():
            x = self.stem(x)
            for i, stage in enumerate(self.stages[: max(take) + 1] if stop_early else self.stages):
                x = stage(x)
                if i in take:
                    intermediates.append(x if self.feature_norms is None else self.feature_norms[i](x))
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers that the given intermediates do not need, as timm defines it.

        Args:
            indices: As in :meth:`forward_intermediates`.
            prune_norm: Accepted for timm's sake; feature norms belong to their stages.
            prune_head: Remove the classifier.

        Returns:
            The indices kept.
        """
        take = _take_indices(len(self.stages), indices)
        last = max(take)
        shortened = last < len(self.stages) - 1
        self.stages = nn.Sequential(*self.stages[: last + 1])
        if self.feature_norms is not None:
            self.feature_norms = self.feature_norms[: last + 1]
        if shortened:
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or shortened:
            self.head.reset(0, "", reset_other=True, in_features=self.num_features)
            self.num_classes = 0
        return take

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier.

        Args:
            num_classes: Classes; 0 for no classifier.
            global_pool: Pooling before it; None keeps the present one.
        """
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))  # a pruned head knows neither

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copy parameters and buffers, as `torch.nn.Module` does; the authors' layout is read too.

        Args:
            state_dict: Tensors by name.
            strict: Whether the names must be exactly this module's.
            assign: Whether to assign tensors in place of copying into those of the module.

        Returns:
            Missing and unexpected names.
        """
        if is_released(state_dict):  # such as timm.create_model(name, checkpoint_path=...) reads
            state_dict = checkpoint_filter_fn(state_dict, self)
        return super().load_state_dict(state_dict, strict, assign)

    def _save_pretrained(self, save_directory: Path) -> None:
        arguments = dict(cast(dict[str, Any], self._hub_mixin_config))
        arguments |= {"num_classes": self.num_classes, "global_pool": self.head.global_pool.pool_type}
        for name in ("device", "dtype"):  # of this process, not of the network
            arguments.pop(name, None)
        (save_directory / "config.json").write_text(json.dumps(arguments, indent=2))
        save_weights(self, save_directory / WEIGHTS_FILE)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> "UniRepLKNet":
        model = cls(**model_kwargs)
        source = Path(model_id)
        if not source.is_dir():
            source = Path(
                hf_hub_download(
                    model_id,
                    WEIGHTS_FILE,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            )
        return load_weights(model, source).eval()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations.

        Gradients stay the same. Each batch enters BatchNorm's running statistics once, as without checkpointing
        (twice under torch.compile, as with PyTorch's own checkpointing of any BatchNorm).

        Args:
            enable: Whether to.
        """
        for stage in cast(Iterable[Stage], self.stages):
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups of parameters for layer-wise learning-rate decay, as timm defines it.

        Args:
            coarse: One group a stage instead of one a block.

        Returns:
            Regular expressions by group.
        """
        blocks: Any = r"^stages\.(\d+)"
        if not coarse:
            blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": blocks}


def _kernel_lists(
    depths: Sequence[int], dims: Sequence[int], kernel_sizes: Sequence[int | Sequence[int]]
) -> list[Sequence[int]]:
    for name, value in (("depths", depths), ("dims", dims), ("kernel_sizes", kernel_sizes)):
        if len(value) != STAGES:
            raise ValueError(f"{name} has {len(value)} entries, expected {STAGES}, one a stage")
    lists = [
        [sizes] * depth if isinstance(sizes, int) else sizes for sizes, depth in zip(kernel_sizes, depths, strict=True)
    ]
    for i, (sizes, depth) in enumerate(zip(lists, depths, strict=True)):
        if len(sizes) != depth:
            raise ValueError(f"kernel_sizes[{i}] has {len(sizes)} entries, depths[{i}] is {depth}")
    return lists


def _take_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    if indices is None:
        indices = count
    wanted = list(range(-indices, 0)) if isinstance(indices, int) else list(indices)
    if not wanted or any(not -count <= i < count for i in wanted):
        raise ValueError(f"indices is {indices}, expected stages of 0 to {count - 1}")
    return [i % count for i in wanted]


@torch.no_grad()
def _init_weights(module: nn.Module, name: str = "") -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        # In bfloat16 the sampling by inverse error function would end in outliers.
        sample = torch.empty_like(module.weight, dtype=torch.float32)
        module.weight.copy_(trunc_normal_(sample, std=0.02))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
