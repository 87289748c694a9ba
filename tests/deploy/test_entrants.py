from pathlib import Path
from typing import Any

import pytest
import torch

import unireplknet
from tests.deploy.compiler import compiler
from tests.nn.helpers import randomise, relative_error
from unireplknet.deploy import export_network, export_onnx
from unireplknet.deploy.entrants import (
    ENGINES,
    FILES,
    FileEntrant,
    Manner,
    NetworkEntrant,
    WeightsEntrant,
    find_entrant,
    load_file,
    write_unverified,
)
from unireplknet.deploy.exported import export_run
from unireplknet.deploy.targets import SUFFIXES, TARGETS
from unireplknet.errors import UserError
from unireplknet.training.run import Run

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
    write_unverified(torch.nn.Conv2d(3, 2, 1), (3, 32, 64), TARGETS["onnx"], tmp_path / "a.onnx")
    assert find_entrant(str(tmp_path / "a.onnx"), Manner(size=48)).shape == (3, 32, 64)


def test_precision_that_does_not_run_is_refused(file: Path) -> None:
    maps, half = torch.randn(2, 3, 32, 32), Manner(dtype="fp16")
    with pytest.raises(UserError, match="onnxruntime runs a file in the precision that it has"):
        load_file(file, "onnxruntime", maps, half)
    openvino = pytest.importorskip("openvino")
    if "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU computes in float16")
    with pytest.raises(UserError, match=r"OpenVINO runs in b?f[0-9]+ on this CPU, not in f16"):
        load_file(file, "openvino", maps, half)


def test_every_format_of_export_can_be_timed() -> None:
    assert FILES.keys() == SUFFIXES.keys()


def check_pt2(to: str, network: unireplknet.UniRepLKNet, path: Path, engines: tuple[str, ...]) -> None:
    """A file tells which engines run it, and each gives the outputs of the network."""
    export_network(network, path, (3, 40, 40), to, metadata={"input_shape": "[3, 40, 40]"})
    entrant = find_entrant(str(path), Manner())
    assert entrant.engines(ENGINES) == engines
    assert entrant.engines(("onnxruntime",)) == engines[:1]
    assert entrant.shape == (3, 40, 40)
    assert find_entrant(str(path), Manner(size=64)).shape == (3, 64, 64)
    maps = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert relative_error(load_file(path, engines[0], maps, Manner())(), network(maps)) < 2e-5
    ready = entrant.prepare(engines[0], 3, path.parent)
    assert ready.call().shape == (3, 5)
    assert not ready.call().requires_grad
    assert (ready.peak is not None) == (engines[0] == "eager")
    with pytest.raises(UserError, match=f"{engines[0]} runs a file in the precision that it has"):
        load_file(path, engines[0], maps, Manner(dtype="bf16"))


def test_graph_of_torch_export(network: unireplknet.UniRepLKNet, tmp_path: Path) -> None:
    check_pt2("torch-export", network, tmp_path / "a.pt2", ("eager", "compiled"))


@compiler
@pytest.mark.slow
def test_machine_code(network: unireplknet.UniRepLKNet, tmp_path: Path) -> None:
    check_pt2("aoti", network, tmp_path / "a.pt2", ("aoti",))
    ready = NetworkEntrant("test_unireplknet", SMALL).prepare("aoti", 2, tmp_path)
    assert ready.error < 2e-5


@compiler
@pytest.mark.slow
def test_graph_of_torch_export_compiled(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.GELU()).eval()
    write_unverified(network, (3, 16, 24), TARGETS["torch-export"], tmp_path / "a.pt2")
    entrant = find_entrant(str(tmp_path / "a.pt2"), Manner(size=64))
    assert entrant.shape == (3, 16, 24)
    maps = torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        found = load_file(tmp_path / "a.pt2", "compiled", maps, Manner())()
        assert relative_error(found, network(maps)) < 2e-5


def test_file_of_weights_is_timed_as_a_network(trained: Run, tmp_path: Path) -> None:
    file = export_run(trained, tmp_path / "a.safetensors", "safetensors", data=str(tmp_path / "gone")).path
    entrant, scratch = find_entrant(str(file), Manner(layout="contiguous")), tmp_path / "scratch"
    assert isinstance(entrant, WeightsEntrant)
    assert entrant.engines(ENGINES) == ENGINES
    assert entrant.shape == (3, 8, 8)
    assert entrant.published is None
    scratch.mkdir()
    ready = entrant.prepare("eager", 2, scratch)
    maps = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative_error(ready.call(), trained.load_model()(maps)) < 2e-5
    assert ready.peak > 0
    assert entrant.prepare("onnxruntime", 2, scratch).error < 2e-5
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.safetensors"]
    half = find_entrant(str(file), Manner(dtype="bf16", layout="contiguous")).prepare("eager", 2, scratch)
    assert half.call().dtype == torch.bfloat16


@pytest.mark.parametrize("ending", FILES)
def test_damaged_files(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"nonsense")
    if ending == ".xml":
        pytest.importorskip("openvino")
        path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(UserError, match=rf"a\{ending} is not an? "):
        _ = find_entrant(str(path), Manner()).shape
    if ending == ".pt2":
        with pytest.raises(UserError, match=r"a\.pt2 is not a \.pt2 file"):
            find_entrant(str(path), Manner()).engines(("eager",))


def test_files_run_on_the_cpu(file: Path) -> None:
    with pytest.raises(UserError, match="is an exported file, which runs on the CPU here; device is cuda"):
        find_entrant(str(file), Manner(device="cuda"))


@pytest.mark.slow
def test_compiled_gives_the_outputs_of_the_network(tmp_path: Path) -> None:
    entrant = NetworkEntrant("test_unireplknet", SMALL)
    for batch in range(2, 12):  # more often than PyTorch compiles a class without being asked to keep apart
        ready = entrant.prepare("compiled", batch, tmp_path)
        assert ready.error < 2e-5
