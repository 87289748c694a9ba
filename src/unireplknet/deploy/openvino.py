"""A network as the two files of OpenVINO: a graph (.xml), and its weights (.bin) beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unireplknet.deploy.graph import Content, FileNetwork, one_line
from unireplknet.deploy.onnx import serialise_onnx
from unireplknet.errors import UserError, missing_extra

SECTION = "unireplknet"
"""Where in rt_info the metadata are."""


def write_openvino(content: Content, path: Path) -> None:
    """Write both files. They come from an ONNX file, so that one quantiser serves both formats."""
    openvino = _import()
    half = content.precision == "fp16"
    whole = Content(content.model, content.shape, content.free_size, "fp32", {}) if half else content
    model = openvino.Core().read_model(serialise_onnx(whole))
    for name, text in content.metadata.items():
        model.set_rt_info(text, [SECTION, name])
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
        # By default OpenVINO computes in bfloat16 on processors that can, 1e-3 away.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            model = core.read_model(path)
            self.compiled = core.compile_model(model, "CPU", settings)
            known = model.get_rt_info().get(SECTION)
        except Exception as error:
            raise UserError(f"{path} is not a file that OpenVINO reads: {one_line(error)}") from error
        names = known.astype(dict) if known is not None else {}
        self.metadata = {name: model.get_rt_info([SECTION, name]).astype(str) for name in names}

    def run(self, maps: Tensor) -> Tensor:
        """The outputs for maps on the CPU."""
        return torch.from_numpy(self.compiled(maps.numpy())[0].copy())


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise missing_extra("openvino", "export") from error
    return openvino
