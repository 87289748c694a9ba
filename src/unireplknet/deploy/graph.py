"""What goes into an exported file, its graph, and a file as a module again: the part that all formats share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unireplknet.errors import UserError
from unireplknet.models.backbone import UniRepLKNet

INPUT, OUTPUT = "maps", "outputs"

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Content:
    """What goes into a file.

    Attributes:
        model: The network, merged, in float32 on the CPU.
        shape: Shape (C, H, W) of its maps.
        free_size: Whether the file takes maps of other heights and widths.
        precision: "fp32", "fp16", "bf16" or "int8".
        metadata: Texts that travel in the file, by name.
        calibration: Maps (1, C, H, W) of training samples, to find the ranges of 8-bit numbers by.
    """

    model: nn.Module
    shape: tuple[int, int, int]
    free_size: bool
    precision: str
    metadata: dict[str, str]
    calibration: Sequence[Tensor] = ()

    def in_precision(self) -> Content:
        """The same with a network that computes as the precision says, from float32 to float32."""
        return replace(self, model=_computing_in(self.model, HALF[self.precision])) if self.precision in HALF else self

    def trace(self) -> torch.export.ExportedProgram:
        """The network as a graph of PyTorch's operators, for any number of samples.

        Raises:
            UserError: The network cannot be expressed as one graph.
        """
        channels, height, width = self.shape
        free: dict[int, Any] = {0: torch.export.Dim("batch")}
        if self.free_size:
            # Sizes that differ: equal ones would be taken for one and the same number. Nor may a map inside shrink to
            # one pixel, which PyTorch treats apart.
            least = smallest_side(self.model)
            height, width = 2 * least, 3 * least
            free |= {2: torch.export.Dim("height", min=least), 3: torch.export.Dim("width", min=least)}
        example = torch.zeros(2, channels, height, width)
        try:
            return torch.export.export(
                self.model, (example,), dynamic_shapes=(free,), prefer_deferred_runtime_asserts_over_guards=True
            )
        except Exception as error:
            raise UserError(f"this {type(self.model).__name__} cannot be exported: {one_line(error)}") from error


class _AveragedParts(nn.Module):
    """What nn.AdaptiveAvgPool2d computes, as two products, which runtimes know for maps of any size.

    Args:
        counts: Into how many rows and columns a map is divided.
    """

    def __init__(self, counts: tuple[int, int]) -> None:
        super().__init__()
        self.counts = counts

    def forward(self, maps: Tensor) -> Tensor:
        rows, columns = (
            self._averages(count, length, maps) for count, length in zip(self.counts, maps.shape[2:], strict=True)
        )
        return rows @ maps @ columns.T

    @staticmethod
    def _averages(count: int, length: int, maps: Tensor) -> Tensor:
        """Weights (count, length): part i is from floor(i length / count) to ceil((i + 1) length / count)."""
        part = torch.arange(count, device=maps.device)[:, None]
        place = torch.arange(length, device=maps.device)
        inside = (place >= part * length // count) & (place < ((part + 1) * length + count - 1) // count)
        return (inside / inside.sum(1, keepdim=True)).to(maps.dtype)


def with_known_operators(model: nn.Module) -> nn.Module:
    """Replace what not every runtime has by what is equal to it, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d):
            size: Any = module.output_size
            model.set_submodule(name, _AveragedParts((size, size) if isinstance(size, int) else tuple(size)))
    return model


def smallest_side(model: nn.Module) -> int:
    """The smallest height or width with which each map inside a network has more than one row or column."""
    backbones = [module for module in model.modules() if isinstance(module, UniRepLKNet)]
    return 1 + (backbones[0].feature_info[-1]["reduction"] if backbones else 32)


class _InHalf(nn.Module):
    """A network that computes in half precision between numbers in float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(self, maps: Tensor) -> Tensor:
        return self.network(maps.to(self.dtype)).float()


def _computing_in(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    part = getattr(model, "half_precision_part", "")
    if part:
        model.set_submodule(part, _InHalf(model.get_submodule(part), dtype))
        return model
    return _InHalf(model, dtype)


class FileNetwork(nn.Module, ABC):
    """An exported file as a module, run by its own runtime on the CPU.

    Attributes:
        runtime: Name of the runtime.
        metadata: The texts that the file holds.
    """

    runtime: str
    metadata: dict[str, str]

    @property
    def listed(self) -> tuple[int, ...]:
        """Channels, height and width of the maps that training used; 0 where the file does not say it."""
        return tuple(json.loads(self.metadata.get("input_shape", "[0, 0, 0]")))

    @property
    def fixed(self) -> tuple[int, ...]:
        """Channels, height and width that the file fixes; 0 where it takes any, or its runtime does not tell."""
        channels, *sides = self.listed
        return (channels, *(sides if self.metadata.get("size") == "fixed" else (0, 0)))

    def forward(self, maps: Tensor) -> Tensor:
        """The outputs for maps (B, C, H, W), on their device.

        Raises:
            UserError: The file is for maps of another shape.
        """
        try:
            outputs = self.run(maps.detach().cpu().contiguous())
        except Exception as error:
            shape = tuple(maps.shape)
            raise UserError(f"{self.runtime} refuses maps of shape {shape}: {one_line(error)}") from error
        return outputs.to(maps.device)

    @abstractmethod
    def run(self, maps: Tensor) -> Tensor:
        """The outputs for maps on the CPU."""


def one_line(error: BaseException) -> str:
    """The beginning of a library's message, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
