"""The formats that a network is exported to, and the rule: a file gets its name once its own runtime has agreed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from unireplknet.deploy.graph import Content, FileNetwork, smallest_side, with_known_operators
from unireplknet.deploy.merge import merged_copy
from unireplknet.deploy.onnx import OnnxNetwork, write_onnx
from unireplknet.deploy.openvino import OpenVinoNetwork, write_openvino
from unireplknet.deploy.pt2 import open_pt2, write_aoti, write_torch_export
from unireplknet.deploy.safetensors import SafetensorsNetwork, write_safetensors
from unireplknet.errors import UserError
from unireplknet.files import replacing_together

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": math.inf}
"""Largest difference of the outputs, over the largest output, with which a file is kept; 8-bit files are judged by what
they score."""


@dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        precisions: What it can hold.
        suffix: Ending of its file.
        write: Writes the file, and others beside it.
        open: Reads it.
        beside: Endings of the other files.
        keeps_guards: Whether the file refuses maps on which it would have been traced differently.
        stem: Name of the file in a run folder.
    """

    precisions: tuple[str, ...]
    suffix: str
    write: Callable[[Content, Path], None]
    open: Callable[[Path], FileNetwork]
    beside: tuple[str, ...] = ()
    keeps_guards: bool = False
    stem: str = "model"

    def files(self, path: Path) -> list[Path]:
        """All files of an export, the one that is opened first."""
        return [path, *(path.with_suffix(suffix) for suffix in self.beside)]


TARGETS = {
    "onnx": Target(("fp32", "fp16", "int8"), ".onnx", write_onnx, OnnxNetwork),
    "openvino": Target(("fp32", "fp16", "int8"), ".xml", write_openvino, OpenVinoNetwork, (".bin",)),
    "torch-export": Target(("fp32", "fp16", "bf16"), ".pt2", write_torch_export, open_pt2, keeps_guards=True),
    "aoti": Target(("fp32", "fp16", "bf16"), ".pt2", write_aoti, open_pt2, keeps_guards=True, stem="model-aoti"),
    # The run's own, unmerged weights are model.safetensors.
    "safetensors": Target(
        ("fp32", "fp16", "bf16"), ".safetensors", write_safetensors, SafetensorsNetwork, stem="model-merged"
    ),
}

SUFFIXES = {target.suffix: target.open for target in TARGETS.values()}
"""How to open a file, by its ending."""


def find_target(name: str, precision: str) -> Target:
    """The format of that name.

    Raises:
        UserError: There is none, or it cannot hold that precision.
    """
    if name not in TARGETS:
        raise UserError(f"no format {name!r}; there are {', '.join(TARGETS)}")
    target = TARGETS[name]
    if precision not in target.precisions:
        others = ", ".join(other for other, its in TARGETS.items() if precision in its.precisions)
        raise UserError(
            f"{name} files hold {', '.join(target.precisions)}, not {precision}; {precision} is for {others or 'none'}"
        )
    return target


def export_network(
    model: nn.Module,
    path: str | Path,
    shape: tuple[int, int, int],
    to: str = "onnx",
    precision: str = "fp32",
    free_size: bool = True,
    metadata: Mapping[str, str] | None = None,
    calibration: Sequence[Tensor] = (),
    judge: Callable[[FileNetwork], None] | None = None,
) -> float:
    """Merge a network, write it for another runtime with any number of samples, and compare the file with the network.

    Args:
        model: The network, merged or not; it stays as it is.
        path: The file to write. What is there is replaced only by a file that agrees.
        shape: Shape (C, H, W) of its maps.
        to: The format, one of :data:`TARGETS`.
        precision: "fp32", "fp16", "bf16" or "int8". Maps and outputs are float32 in every case.
        free_size: Whether the file takes maps of other heights and widths.
        metadata: Texts to put into the file, by name; ``size`` is added, which says what maps it takes.
        calibration: Maps (1, C, H, W) of training samples, which int8 needs.
        judge: Looks at the file before it gets its name, and raises what speaks against it.

    Returns:
        The largest difference between the outputs of the file in its own runtime and those of the network in PyTorch,
        over the largest output; over several numbers of samples and, where the size is free, sizes, or for int8 over
        the maps of ``calibration``.

    Raises:
        UserError: The file disagrees, a library is not installed, or the network cannot be expressed in that format.
    """
    path, target = Path(path), find_target(to, precision)
    if path.suffix != target.suffix:
        raise UserError(f"{path} has another ending than {to} files, {target.suffix}")
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: there is no folder {path.parent}")
    if precision == "int8" and not calibration:
        raise UserError("int8 needs maps of training samples, to find the ranges of numbers by")
    least = smallest_side(model) if target.keeps_guards else 1
    free_size = free_size and min(shape[1:]) >= least
    size = ("any" if least == 1 else f"at least {least}") if free_size else "fixed"
    said = {**(metadata or {}), "size": size}
    merged = with_known_operators(merged_copy(model).float().cpu())
    content = Content(merged, shape, free_size, precision, said, calibration)
    probes = list(calibration) if precision == "int8" else _probes(shape, free_size, least)
    reference = copy.deepcopy(model).eval()
    try:
        with replacing_together(*target.files(path)) as folder:
            target.write(content, folder / path.name)
            network = target.open(folder / path.name)
            error = _largest_error(network, reference, probes)
            if not error <= TOLERANCES[precision]:  # nor where it is not a number
                raise UserError(
                    f"the exported file disagrees with the network: largest relative error {error:.1e}, at most"
                    f" {TOLERANCES[precision]:.0e} is accepted; {path} was not written"
                )
            if judge is not None:
                judge(network)
    except OSError as problem:
        raise UserError(f"{path} cannot be written: {problem}") from problem
    return error


export_onnx = partial(export_network, to="onnx")
"""Write a network as ONNX: :func:`export_network` with ``to="onnx"``."""


def _probes(shape: tuple[int, int, int], free_size: bool, least: int) -> list[Tensor]:
    """Maps of random numbers to compare outputs by: one sample, three, and where it is free another, odd size."""
    channels, height, width = shape
    sizes = [(1, height, width), (3, height, width)]
    if free_size:
        sizes.append((2, max(least, height // 2 + 1), width + 7))
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, channels, *size, generator=generator) for count, *size in sizes]


@torch.inference_mode()
def _largest_error(found: nn.Module, wanted: nn.Module, probes: list[Tensor]) -> float:
    first = next(wanted.parameters())
    errors = []
    for maps in probes:
        reference = wanted(maps.to(first)).float().cpu()
        errors.append(((found(maps) - reference).abs().max() / reference.abs().max()).item())
    return math.nan if any(map(math.isnan, errors)) else max(errors)
