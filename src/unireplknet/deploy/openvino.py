"""A network as the two files of OpenVINO: a graph (.xml), and its weights (.bin) beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unireplknet.deploy.graph import Content, FileNetwork, one_line
from unireplknet.deploy.onnx import serialise_onnx
from unireplknet.errors import UserError, missing_extra

SECTION, KEY = "unireplknet", "metadata"
"""Where in rt_info the metadata are, as one JSON text."""

HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
"""OpenVINO's names of precisions."""


def write_openvino(content: Content, path: Path) -> None:
    """Write both files. They come from an ONNX file, so that one quantiser serves both formats."""
    openvino = _import()
    half = content.precision == "fp16"
    whole = Content(content.model, content.shape, content.free_size, "fp32", {}) if half else content
    try:
        model = openvino.Core().read_model(serialise_onnx(whole))
    except RuntimeError as error:
        name = type(content.model).__name__
        raise UserError(f"this {name} cannot be written for OpenVINO: {one_line(error)}") from error
    model.set_rt_info(json.dumps(content.metadata, ensure_ascii=False), [SECTION, KEY])
    openvino.save_model(model, path, compress_to_fp16=half)


class OpenVinoNetwork(FileNetwork):
    """OpenVINO's files, or an ONNX file, as a module, run by OpenVINO on the CPU.

    Args:
        path: The .xml or .onnx file.
        precision: "fp32", "fp16" or "bf16": in what to compute where the file leaves a choice.
        shape: Shape (B, C, H, W) of all maps, for which it is then prepared; by default any that the file takes.

    Raises:
        UserError: OpenVINO is not installed, cannot read the files, or does not compute in that precision here.
    """

    runtime = "OpenVINO"

    def __init__(self, path: Path, precision: str = "fp32", shape: Sequence[int] = ()) -> None:
        super().__init__()
        openvino = _import()
        if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
            raise UserError(f"{path.with_suffix('.bin')} is missing: OpenVINO's weights lie in a file of their own")
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # a file that is mapped cannot be replaced everywhere
        # By default OpenVINO computes in bfloat16 on processors that can.
        wanted = HINTS[precision]
        settings = {"INFERENCE_PRECISION_HINT": wanted, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            self.model = core.read_model(path)
            if shape:
                self.model.reshape(list(shape))
            self.compiled = core.compile_model(self.model, "CPU", settings)
            said = self.model.has_rt_info([SECTION, KEY])
            text = self.model.get_rt_info([SECTION, KEY]).astype(str) if said else "{}"
        except Exception as error:
            raise UserError(f"{path} is not a file that OpenVINO reads: {one_line(error)}") from error
        found = self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if found != wanted:
            raise UserError(f"OpenVINO runs in {found} on this CPU, not in {wanted}")
        self.metadata = json.loads(text)

    @property
    def fixed(self) -> tuple[int, ...]:
        """Channels, height and width that the graph fixes; 0 where it takes any."""
        sides = list(self.model.input(0).partial_shape)[1:]
        return tuple(side.get_length() if side.is_static else 0 for side in sides)

    def run(self, maps: Tensor) -> Tensor:
        """The outputs for maps on the CPU."""
        return torch.from_numpy(self.compiled(maps.numpy())[0].copy())

    def in_place(self, maps: Tensor) -> Callable[[], Tensor]:
        """What runs the network on the given maps without copying them or the outputs, which the next call replaces."""
        request, array = self.compiled.create_infer_request(), maps.numpy()

        def run() -> Tensor:
            request.infer([array], share_inputs=True)
            return torch.from_numpy(request.get_output_tensor(0).data)

        return run


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise missing_extra("openvino", "export") from error
    return openvino
