from pathlib import Path
from typing import Any

import pytest
import torch

import unireplknet
from tests.nn.helpers import randomise, relative_error
from unireplknet.deploy import export_onnx
from unireplknet.deploy.entrants import FileEntrant, Manner, NetworkEntrant, find_entrant, load_file, unverified_onnx
from unireplknet.errors import UserError

SMALL = Manner(size=32, layout="contiguous")


@pytest.fixture(scope="module")
def network() -> unireplknet.UniRepLKNet:
    return randomise(unireplknet.create_model("test_unireplknet", num_classes=5)).eval()


@pytest.fixture(scope="module")
def file(network: unireplknet.UniRepLKNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "a.onnx"
    export_onnx(network, path, (3, 32, 32), metadata={"input_shape": "[3, 32, 32]"})
    return path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a network that was written for one engine is found by the other."""
    return tmp_path_factory.mktemp("scratch")


@pytest.mark.parametrize(
    ("word", "manner", "message"),
    [
        ("unireplknet_q", SMALL, "neither a network of timm nor an exported file.*; did you mean unireplknet_"),
        ("convnext_tniy", SMALL, "did you mean convnext_tiny"),
        ("unireplknet_t.in2k", SMALL, r"unireplknet_t.in2k: Invalid pretrained tag \(in2k\) for unireplknet_t$"),
        ("nowhere.onnx", SMALL, "nowhere.onnx is not a file"),
    ],
)
def test_mistakes(word: str, manner: Manner, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        find_entrant(word, manner)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "side", "top1"),
    [
        ("unireplknet_s", 224, 83.9),
        ("unireplknet_s.in22k_ft_in1k_384", 384, 86.4),
        ("unireplknet_s.in22k", 224, None),
        ("unireplknet_b", 384, 87.4),
        ("unireplknet_h", 224, None),
        ("convnextv2_atto", 224, 76.7),
        ("convnext_tiny", 224, 82.1),
        ("convnext_tiny.fb_in22k_ft_in1k_384", 384, 84.1),
        ("convnext_tiny.in12k_ft_in1k", 224, None),
        ("resnet18", 224, None),
    ],
)
def test_listed_size_and_accuracy(name: str, side: int, top1: float | None) -> None:
    entrant = NetworkEntrant(name, Manner())
    assert entrant.shape == (3, side, side)
    assert (entrant.published and entrant.published.top1) == top1


def test_accuracy_holds_at_its_own_size_only() -> None:
    assert NetworkEntrant("unireplknet_t", Manner(size=192)).published is None
    assert NetworkEntrant("unireplknet_t", Manner(size=224)).published is not None


def test_eager_runs_the_merged_network(tmp_path: Path) -> None:
    entrant = NetworkEntrant("test_unireplknet", SMALL)
    ready = entrant.prepare("eager", 2, tmp_path)
    assert entrant.model.merged
    assert not entrant.model.training
    assert ready.call().shape == (2, 1000)
    assert ready.peak > 2 * 16 * 8 * 8 * 4  # at least one map of the first stage
    assert (ready.layout, ready.error) == ("contiguous", None)


def test_training_step_leaves_no_gradients(tmp_path: Path) -> None:
    entrant = NetworkEntrant("test_unireplknet", Manner(size=32, mode="train", layout="contiguous"))
    ready = entrant.prepare("eager", 2, tmp_path)
    assert not entrant.model.merged
    touched = []
    for parameter in entrant.model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: touched.append(p.grad.isfinite().all().item()))
    assert ready.call().shape == ()
    assert len(touched) == len(list(entrant.model.parameters()))
    assert all(touched)
    assert all(p.grad is None for p in entrant.model.parameters())


def test_faster_layout_is_chosen(monkeypatch: Any, tmp_path: Path) -> None:
    class Found:
        def best(self) -> dict[str, float]:
            return {"channels_last": 1.0, "contiguous": 2.0}

    monkeypatch.setattr("unireplknet.deploy.entrants.take_turns", lambda *_, **__: Found())
    entrant = NetworkEntrant("test_unireplknet", Manner(size=32))
    assert entrant.prepare("eager", 2, tmp_path).layout == "channels_last"
    weight = max((p for p in entrant.model.parameters() if p.ndim == 4), key=torch.numel)
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["test_unireplknet", "test_resnet"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_runtimes_give_the_outputs_of_the_network(name: str, engine: str, scratch: Path) -> None:
    pytest.importorskip(engine)
    ready = NetworkEntrant(name, SMALL).prepare(engine, 2, scratch)
    assert ready.error < 2e-5
    assert ready.call().shape == (2, 1000)
    assert ready.peak is None


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_file_gives_the_outputs_of_its_network(
    engine: str, file: Path, network: unireplknet.UniRepLKNet, tmp_path: Path
) -> None:
    pytest.importorskip(engine)
    maps = torch.randn(3, 3, 48, 40).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert relative_error(load_file(file, engine, maps, Manner())(), network(maps)) < 2e-5
    entrant = find_entrant(str(file), Manner())
    assert entrant.shape == (3, 32, 32)
    assert entrant.prepare(engine, 2, tmp_path).call().shape == (2, 5)


def test_openvino_file(file: Path, network: unireplknet.UniRepLKNet, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "a.xml"
    openvino.save_model(openvino.convert_model(file), path, compress_to_fp16=False)
    entrant = find_entrant(str(path), Manner(size=32))
    assert entrant.engines(("eager", "onnxruntime")) == ("openvino",)
    assert entrant.shape == (3, 32, 32)
    with pytest.raises(UserError, match=r"a.xml takes maps of any size: add --size"):
        _ = FileEntrant(str(path), Manner()).shape
    maps = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert relative_error(load_file(path, "openvino", maps, Manner())(), network(maps)) < 2e-5


def test_file_runs_in_its_own_engine_where_none_is_wanted(file: Path) -> None:
    entrant = find_entrant(str(file), Manner())
    assert entrant.engines(("eager",)) == ("onnxruntime",)
    assert entrant.engines(("eager", "openvino")) == ("openvino",)
    with pytest.raises(UserError, match="is an exported file, which cannot be trained"):
        find_entrant(str(file), Manner(mode="train"))
    assert find_entrant(str(file), Manner(size=64)).shape == (3, 64, 64)


def test_fixed_size_of_a_file_wins(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(unverified_onnx(torch.nn.Conv2d(3, 2, 1), (3, 32, 64)))
    assert find_entrant(str(tmp_path / "a.onnx"), Manner(size=48)).shape == (3, 32, 64)


def test_precision_that_does_not_run_is_refused(file: Path) -> None:
    maps, half = torch.randn(2, 3, 32, 32), Manner(dtype="fp16")
    with pytest.raises(UserError, match="onnxruntime runs exported files in fp32"):
        load_file(file, "onnxruntime", maps, half)
    openvino = pytest.importorskip("openvino")
    if "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU computes in float16")
    with pytest.raises(UserError, match=r"OpenVINO runs in b?f[0-9]+ on this CPU, not in f16"):
        load_file(file, "openvino", maps, half)


@pytest.mark.slow
def test_compiled_gives_the_outputs_of_the_network(tmp_path: Path) -> None:
    entrant = NetworkEntrant("test_unireplknet", SMALL)
    for batch in range(2, 12):  # more often than PyTorch compiles a class without being asked to keep apart
        ready = entrant.prepare("compiled", batch, tmp_path)
        assert ready.error < 2e-5
