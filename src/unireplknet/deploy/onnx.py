"""A network as an ONNX file, for ONNX Runtime."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unireplknet.deploy.graph import INPUT, OUTPUT, Content, FileNetwork, one_line
from unireplknet.errors import UserError, missing_extra


def write_onnx(content: Content, path: Path) -> None:
    """Write an ONNX file."""
    path.write_bytes(serialise_onnx(content))


def serialise_onnx(content: Content) -> bytes:
    """The content of an ONNX file.

    Raises:
        UserError: A library is not installed, or the network cannot be expressed in ONNX.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - PyTorch's exporter needs it
    except ImportError as error:
        raise missing_extra(str(error.name), "export") from error
    program = content.in_precision().trace()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            exported = torch.onnx.export(
                program, (), dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT]
            )
        assert exported is not None
        proto = exported.model_proto
    except Exception as error:
        cause: BaseException = error  # the first one names the operator; those after it only say that it failed
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UserError(f"this {type(content.model).__name__} cannot be written as ONNX: {one_line(cause)}") from error
    _name_sizes(proto)
    if content.precision == "int8":
        proto = _quantised(proto, content.calibration)
    onnx.helper.set_model_props(proto, content.metadata)
    return proto.SerializeToString()


def _name_sizes(proto: Any) -> None:
    """Call the free sizes what they are, instead of by the numbers of PyTorch's symbols."""
    free = [size.dim_param for size in proto.graph.input[0].type.tensor_type.shape.dim]
    names = {symbol: name for symbol, name in zip(free, ("batch", "", "height", "width"), strict=True) if symbol}
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in names:
                size.dim_param = names[size.dim_param]


def _quantised(proto: Any, calibration: Sequence[Tensor]) -> Any:
    """The same graph with 8-bit weights (a scale for each channel) and 8-bit activations in its products."""
    try:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise missing_extra(str(error.name), "export") from error

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.maps = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            maps = next(self.maps, None)
            return None if maps is None else {INPUT: maps.numpy()}

    logging.getLogger().addFilter(_quiet)
    try:
        with tempfile.TemporaryDirectory() as folder:
            plain, prepared, made = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "int8"))
            onnx.save(proto, plain)
            quant_pre_process(plain, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                made,
                Reader(),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            )
            return onnx.load(made)
    except Exception as error:
        raise UserError(f"this network cannot be brought to int8: {one_line(error)}") from error
    finally:
        logging.getLogger().removeFilter(_quiet)


def _quiet(record: logging.LogRecord) -> bool:
    """Drop ONNX Runtime's remarks on the nodes that it leaves as they are."""
    return record.levelno >= logging.ERROR


class OnnxNetwork(FileNetwork):
    """An ONNX file as a module, run by ONNX Runtime on the CPU.

    Args:
        path: The file.

    Raises:
        UserError: ONNX Runtime is not installed, or cannot read the file.
    """

    runtime = "ONNX Runtime"

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_extra("onnxruntime", "export") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors come as exceptions, which say the same
        try:
            self.session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # each kind of damage has a class of its own there
            raise UserError(f"{path} is not an ONNX file that ONNX Runtime reads: {one_line(error)}") from error
        self.metadata = dict(self.session.get_modelmeta().custom_metadata_map)

    @property
    def fixed(self) -> tuple[int, ...]:
        """Channels, height and width that the graph fixes; 0 where it takes any."""
        return tuple(side if isinstance(side, int) else 0 for side in self.session.get_inputs()[0].shape[1:])

    def run(self, maps: Tensor) -> Tensor:
        """The outputs for maps on the CPU."""
        (outputs,) = self.session.run(None, {self.session.get_inputs()[0].name: maps.numpy()})
        return torch.from_numpy(outputs)
