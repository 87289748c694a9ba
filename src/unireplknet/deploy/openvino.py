"""A network as the two files of OpenVINO: a graph (.xml), and its weights (.bin) beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unireplknet.deploy.graph import Content, FileNetwork, one_line
from unireplknet.deploy.onnx import serialise_onnx
from unireplknet.errors import UserError, missing_extra

SECTION, KEY = "unireplknet", "metadata"
"""Where in rt_info the metadata are, as one JSON text."""


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
    """OpenVINO's files as a module, run by OpenVINO on the CPU, in float32 where the file leaves a choice.

    Args:
        path: The .xml file.

    Raises:
        UserError: OpenVINO is not installed, or cannot read the files.
    """

    runtime = "OpenVINO"

    def __init__(self, path: Path) -> None:
        super().__init__()
        openvino = _import()
        if not path.with_suffix(".bin").is_file():
            raise UserError(f"{path.with_suffix('.bin')} is missing: OpenVINO's weights lie in a file of their own")
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # a file that is mapped cannot be replaced everywhere
        # By default OpenVINO computes in bfloat16 on processors that can.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            model = core.read_model(path)
            self.compiled = core.compile_model(model, "CPU", settings)
            text = model.get_rt_info([SECTION, KEY]).astype(str) if model.has_rt_info([SECTION, KEY]) else "{}"
        except Exception as error:
            raise UserError(f"{path} is not a file that OpenVINO reads: {one_line(error)}") from error
        self.metadata = json.loads(text)

    def run(self, maps: Tensor) -> Tensor:
        """The outputs for maps on the CPU."""
        return torch.from_numpy(self.compiled(maps.numpy())[0].copy())


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise missing_extra("openvino", "export") from error
    return openvino
