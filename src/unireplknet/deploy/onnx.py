"""A network as an ONNX file, which gets its name only after its own runtime has agreed with PyTorch."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unireplknet.deploy.merge import merged_copy
from unireplknet.errors import UserError, missing_extra
from unireplknet.files import replacing

TOLERANCE = 1e-4
"""Largest difference of the outputs, over the largest output, with which a file is kept."""

INPUT, OUTPUT = "maps", "outputs"


class OnnxNetwork(nn.Module):
    """An ONNX file as a module, run by ONNX Runtime on the CPU.

    Args:
        file: The file, or what is in it.

    Raises:
        UserError: ONNX Runtime is not installed, or cannot read the file.
    """

    def __init__(self, file: Path | bytes) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_extra("onnxruntime", "export") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            source = file if isinstance(file, bytes) else file.read_bytes()
            self.session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # each kind of damage has a class of its own there
            name = "the file" if isinstance(file, bytes) else file
            raise UserError(f"{name} is not an ONNX file that ONNX Runtime reads: {_one_line(error)}") from error

    @property
    def metadata(self) -> dict[str, str]:
        """What :func:`export_onnx` was told to write into the file."""
        return dict(self.session.get_modelmeta().custom_metadata_map)

    def forward(self, maps: Tensor) -> Tensor:
        """The outputs for maps (B, C, H, W), on their device.

        Raises:
            UserError: The file is for maps of another shape.
        """
        try:
            (outputs,) = self.session.run(None, {self.session.get_inputs()[0].name: maps.detach().cpu().numpy()})
        except Exception as error:
            raise UserError(f"ONNX Runtime refuses maps of shape {tuple(maps.shape)}: {_one_line(error)}") from error
        return torch.from_numpy(outputs).to(maps.device)


def export_onnx(
    model: nn.Module,
    path: str | Path,
    shape: tuple[int, int, int],
    free_size: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> float:
    """Merge a network, write it as ONNX in float32 with any number of samples, and compare the file with the network.

    Args:
        model: The network, merged or not; it stays as it is.
        path: The file to write. What is there is replaced only by a file that agrees.
        shape: Shape (C, H, W) of its maps.
        free_size: Whether the file takes maps of any height and width.
        metadata: Texts to put into the file, by name.

    Returns:
        The largest difference between the outputs of the file in ONNX Runtime and those of the network in PyTorch, over
        the largest output; over several numbers of samples and, where the size is free, sizes.

    Raises:
        UserError: The file disagrees, a library is not installed, or the network cannot be expressed in ONNX.
    """
    reference = copy.deepcopy(model).eval()
    merged = merged_copy(model).float().cpu()
    path = Path(path)
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: there is no folder {path.parent}")
    with replacing(path) as file:
        file.write(_serialise(merged, shape, free_size, dict(metadata or {})))
        file.flush()
        error = _largest_error(OnnxNetwork(Path(file.name)), reference, _probes(shape, free_size))
        if not error <= TOLERANCE:  # nor where it is not a number
            raise UserError(
                f"the exported file disagrees with the network: largest relative error {error:.1e}, at most"
                f" {TOLERANCE:.0e} is accepted; {path} was not written"
            )
    return error


def onnx_content(model: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """The content of an ONNX file of any network, as it is, for maps (B, C, H, W) of one size; compared with nothing.

    Raises:
        UserError: A library is not installed, or the network cannot be expressed in ONNX.
    """
    return _serialise(copy.deepcopy(model).eval().float().cpu(), shape, False, {})


def _serialise(model: nn.Module, shape: tuple[int, int, int], free_size: bool, metadata: dict[str, str]) -> bytes:
    """The content of an ONNX file."""
    try:
        import onnx
        import onnxscript  # noqa: F401 - PyTorch's exporter needs it
    except ImportError as error:
        raise missing_extra(str(error.name), "export") from error
    channels, height, width = shape
    # Height and width that differ: equal ones would be taken for one and the same free number.
    example = torch.zeros(2, channels, height, width + (height if free_size else 0))
    free: dict[int, Any] = {0: torch.export.Dim("batch")}
    if free_size:
        free |= {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(free,),
            )
        assert program is not None
        proto = program.model_proto
        onnx.helper.set_model_props(proto, metadata)
        return proto.SerializeToString()
    except Exception as error:
        cause: BaseException = error  # the first one names the operator; those after it only say that it failed
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UserError(f"this {type(model).__name__} cannot be written as ONNX: {_one_line(cause)}") from error


def _probes(shape: tuple[int, int, int], free_size: bool) -> list[Tensor]:
    """Maps of random numbers to compare outputs by: one sample, three, and where it is free another, odd size."""
    channels, height, width = shape
    sizes = [(1, height, width), (3, height, width)]
    if free_size:
        sizes.append((2, height // 2 + 1, width + 7))
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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
