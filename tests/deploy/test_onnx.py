from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor

import unireplknet
from tests.nn.helpers import randomise, relative_error
from unireplknet.deploy import export_onnx
from unireplknet.deploy import onnx as module
from unireplknet.errors import UserError
from unireplknet.modalities.audio import AudioInput
from unireplknet.modalities.image import ImageInput
from unireplknet.modalities.points import PointsInput
from unireplknet.modalities.series import SeriesInput
from unireplknet.modalities.video import VideoInput
from unireplknet.tasks.forecast.inputs import ForecastInput
from unireplknet.tasks.forecast.network import Forecaster

ROUNDING = 2e-5
"""Of float32 through the layers of the tiny network; its randomised weights are those of a trained one."""


def network(channels: int = 3, **kwargs: Any) -> unireplknet.UniRepLKNet:
    model = unireplknet.create_model("test_unireplknet", in_chans=channels, num_classes=5, **kwargs)
    return randomise(model).eval()


def run_alone(path: Path, maps: Tensor) -> Tensor:
    """What ONNX Runtime makes of a file, with nothing of ours in between."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(["outputs"], {"maps": maps.numpy()})
    return torch.from_numpy(outputs)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    path = tmp_path_factory.mktemp("onnx") / "a.onnx"
    return path, export_onnx(network(), path, (3, 32, 32), metadata={"names": "a, ü"})


@pytest.mark.parametrize("size", [(32, 32), (45, 70)])
@pytest.mark.parametrize("batch", [1, 4])
def test_file_gives_the_outputs_of_the_network(exported: tuple[Path, float], batch: int, size: tuple[int, int]) -> None:
    maps = torch.randn(batch, 3, *size)
    with torch.no_grad():
        wanted = network().double()(maps.double())
    assert wanted.shape == (batch, 5)
    assert relative_error(run_alone(exported[0], maps), wanted) < ROUNDING
    assert exported[1] < ROUNDING


def test_file_is_merged_checked_and_says_what_it_is(exported: tuple[Path, float]) -> None:
    proto = onnx.load(exported[0])
    onnx.checker.check_model(proto, full_check=True)
    assert {p.key: p.value for p in proto.metadata_props} == {"names": "a, ü", "size": "any"}
    kinds = [node.op_type for node in proto.graph.node]
    assert "BatchNormalization" not in kinds
    merged = network().reparameterize()
    assert kinds.count("Conv") <= sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in merged.modules())
    assert {p.name for p in exported[0].parent.iterdir()} == {"a.onnx"}


def tamper(proto: onnx.ModelProto) -> None:
    """Change one weight of one kernel by a tenth of the largest."""
    weight = next(t for t in proto.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += abs(values).max() / 10
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


def spoil(proto: onnx.ModelProto) -> None:
    """Make the outputs no numbers."""
    weight = next(t for t in proto.graph.initializer if len(t.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(weight.dims), np.nan, np.float32), weight.name))


@pytest.mark.parametrize("change", [tamper, spoil])
def test_file_that_disagrees_is_refused_and_the_old_one_kept(
    exported: tuple[Path, float], change: Callable[[onnx.ModelProto], None], tmp_path: Path, monkeypatch: Any
) -> None:
    def tampered(_: Any) -> bytes:
        proto = onnx.load(exported[0])
        change(proto)
        return proto.SerializeToString()

    monkeypatch.setattr(module, "serialise_onnx", tampered)
    (tmp_path / "a.onnx").write_bytes(b"before")
    with pytest.raises(UserError, match=r"disagrees with the network: largest relative error .*a.onnx was not written"):
        export_onnx(network(), tmp_path / "a.onnx", (3, 32, 32))
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == b"before"


def test_network_stays_as_it_is(tmp_path: Path) -> None:
    model = network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_onnx(model, tmp_path / "a.onnx", (3, 32, 32), free_size=False)
    assert model.training
    assert not model.merged
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(UserError, match=r"ONNX Runtime refuses maps of shape \(1, 3, 33, 32\)"):
        module.OnnxNetwork(tmp_path / "a.onnx")(torch.zeros(1, 3, 33, 32))


MAPS = {
    "image": (ImageInput(size=16, channels=1, mean=(0.5,), std=(0.5,)), np.zeros((9, 9), np.uint8)),
    "audio": (AudioInput(rate=8000, frames=24, mels=16), torch.randn(3000)),
    "points": (PointsInput(points=50, size=16, directions=((0, 0), (90, 0))), torch.randn(60, 3)),
    "video": (VideoInput(frames=2, grid=(1, 2), size=16), None),
    "series": (SeriesInput(past=24, channels=2), np.random.default_rng(0).normal(size=(30, 1, 2))),
}


@pytest.mark.parametrize("modality", [pytest.param(name, marks=pytest.mark.slow) for name in MAPS])
def test_every_modality(modality: str, tmp_path: Path) -> None:
    inputs, raw = MAPS[modality]
    if raw is None:
        sample = inputs.tile(inputs.image.to_map(torch.zeros(2, 3, 20, 30, dtype=torch.uint8)))
    else:
        sample = inputs.to_map(inputs.read(raw) if isinstance(raw, np.ndarray) else raw)
    assert tuple(sample.shape) == inputs.shape
    model = network(inputs.shape[0], stem_stride=1)
    assert export_onnx(model, tmp_path / "a.onnx", inputs.shape) < ROUNDING
    with torch.no_grad():
        assert relative_error(run_alone(tmp_path / "a.onnx", sample[None]), model(sample[None])) < ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"unireplknet_{size}" for size in "afpnt"])
def test_variants_up_to_t(name: str, tmp_path: Path) -> None:
    model = randomise(unireplknet.create_model(name)).eval()
    with torch.no_grad():  # at full strength, float32 itself is 1e-4 away from float64 in networks of this depth
        for key, parameter in model.named_parameters():
            if key.endswith("layer_scale"):
                parameter.mul_(0.1)
    assert export_onnx(model, tmp_path / "a.onnx", (3, 64, 64)) < ROUNDING
    maps = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        assert relative_error(run_alone(tmp_path / "a.onnx", maps), model(maps)) < ROUNDING


def test_forecaster_with_gaps_in_its_window(tmp_path: Path) -> None:
    inputs = ForecastInput(horizon=4, past=12, variables=("t", "p"), embed_dim=12)
    backbone = unireplknet.create_model("test_unireplknet", in_chans=1, num_classes=0, stem_stride=1)
    model = randomise(Forecaster(backbone, 3, **inputs.forecaster())).eval()
    assert export_onnx(model, tmp_path / "a.onnx", model.window_shape, free_size=False) < ROUNDING
    windows = torch.randn(2, *model.window_shape)
    windows[:, 0, 3:5, 1] = torch.nan
    with torch.no_grad():
        wanted = model(windows)
    assert wanted.isfinite().all()
    assert relative_error(run_alone(tmp_path / "a.onnx", windows), wanted) < ROUNDING


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ResNet has no reparameterize"):
        export_onnx(timm.create_model("test_resnet"), tmp_path / "a.onnx", (3, 32, 32))
    with pytest.raises(UserError, match="there is no folder"):
        export_onnx(network(), tmp_path / "nowhere" / "a.onnx", (3, 32, 32))
    (tmp_path / "b.onnx").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"b.onnx is not an ONNX file that ONNX Runtime reads"):
        module.OnnxNetwork(tmp_path / "b.onnx")
