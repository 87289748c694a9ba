"""Every format: what it says of itself and computes, read by its own runtime in a process that has nothing of ours."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unireplknet
from tests.deploy.compiler import compiler
from tests.nn.helpers import randomise, relative_error
from unireplknet.deploy import export_network
from unireplknet.deploy.describe import describe
from unireplknet.deploy.graph import Content, _AveragedParts, smallest_side
from unireplknet.deploy.targets import SUFFIXES, TARGETS, TOLERANCES, find_target
from unireplknet.errors import UserError
from unireplknet.files import replacing_together
from unireplknet.tasks.forecast.inputs import ForecastInput
from unireplknet.tasks.forecast.network import Forecaster
from unireplknet.tasks.segment.network import Segmenter
from unireplknet.training.run import Run

SIZE = 40
ROUNDING = 2e-5
METADATA = {"names": '["a", "ü \\"<&>"]', "license": "CC0-1.0"}

ALONE = """
import json, sys
sys.modules["unireplknet"] = None
import numpy as np
file, maps = sys.argv[1], np.load(sys.argv[2])
{body}
np.save(sys.argv[3], outputs)
print(json.dumps(said))
"""
READERS = {
    "onnx": """
sys.modules["torch"] = None
import onnxruntime
session = onnxruntime.InferenceSession(file)
(outputs,) = session.run(None, {"maps": maps})
said = dict(session.get_modelmeta().custom_metadata_map)
""",
    "openvino": """
sys.modules["torch"] = None
import openvino
model = openvino.Core().read_model(file)
outputs = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(maps)[0]
said = json.loads(model.get_rt_info(["unireplknet", "metadata"]).astype(str))
""",
    "torch-export": """
import torch
texts = {"metadata.json": ""}
outputs = torch.export.load(file, extra_files=texts).module()(torch.from_numpy(maps)).detach().numpy()
said = json.loads(texts["metadata.json"])
""",
    "aoti": """
import torch
call = torch._inductor.aoti_load_package(file)
outputs, said = call(torch.from_numpy(maps)).numpy(), dict(call.get_metadata())
""",
}


def network(**kwargs: Any) -> unireplknet.UniRepLKNet:
    return randomise(unireplknet.create_model("test_unireplknet", num_classes=5, **kwargs)).eval()


def read_alone(to: str, file: Path, maps: Tensor, folder: Path) -> tuple[Tensor, dict[str, str]]:
    """What a file gives and says in a process that cannot import this package."""
    np.save(folder / "maps.npy", maps.numpy())
    script = ALONE.replace("{body}", READERS[to])
    words = [sys.executable, "-W", "ignore", "-c", script, file, folder / "maps.npy", folder / "outputs.npy"]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return torch.from_numpy(np.load(folder / "outputs.npy")), json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "to", ["onnx", "openvino", "torch-export", pytest.param("aoti", marks=[pytest.mark.slow, compiler])]
)
def test_file_alone_gives_the_outputs_of_the_network(to: str, tmp_path: Path) -> None:
    model = network()
    file = tmp_path / f"a{TARGETS[to].suffix}"
    error = export_network(model, file, (3, SIZE, SIZE), to, metadata=METADATA)
    maps = torch.randn(3, 3, 70, 45)
    with torch.no_grad():
        wanted = model.double()(maps.double())
    outputs, said = read_alone(to, file, maps, tmp_path)
    assert relative_error(outputs, wanted) < ROUNDING
    assert error < ROUNDING
    assert said["size"] == ("at least 33" if TARGETS[to].keeps_guards else "any")
    assert {name: said[name] for name in METADATA} == METADATA
    network_of_file = SUFFIXES[file.suffix](file)
    assert relative_error(network_of_file(maps), wanted) < ROUNDING
    assert {p.name for p in tmp_path.iterdir()} == {f.name for f in TARGETS[to].files(file)} | {
        "maps.npy",
        "outputs.npy",
    }


def test_safetensors_hold_the_merged_network_and_how_to_build_it(trained: Run, tmp_path: Path) -> None:
    file, model = tmp_path / "a.safetensors", trained.load_model()
    said = describe(trained, trained.recipe.input.shape, "fp16")
    error = export_network(model, file, trained.recipe.input.shape, "safetensors", "fp16", metadata=said)
    assert 0 < error < TOLERANCES["fp16"]
    reader = (
        "import sys, json; sys.modules['unireplknet'] = None; from safetensors import safe_open; import numpy\n"
        "with safe_open(sys.argv[1], 'np') as f:\n"
        "    print(json.dumps([f.metadata(), {n: str(f.get_tensor(n).dtype) for n in f.keys()}]))"
    )
    done = subprocess.run([sys.executable, "-c", reader, file], capture_output=True, text=True, check=True)
    metadata, tensors = json.loads(done.stdout)
    assert json.loads(metadata["names"]) == list(trained.classes)
    assert json.loads(metadata["network"])["dims"] == [8, 8, 16, 16]
    assert set(tensors) == set(model.reparameterize().state_dict())
    assert set(tensors.values()) == {"float16"}
    again = unireplknet.create_model("test_unireplknet", num_classes=3, stem_stride=1, dims=(8, 8, 16, 16))
    unireplknet.load_weights(again, file)
    maps = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(again.eval()(maps), SUFFIXES[".safetensors"](file)(maps))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_in_the_file_and_within_its_tolerance(precision: str, tmp_path: Path) -> None:
    to = "onnx" if precision == "fp16" else "torch-export"
    file = tmp_path / f"a{TARGETS[to].suffix}"
    error = export_network(network(), file, (3, SIZE, SIZE), to, precision)
    assert 1e-4 < error < TOLERANCES[precision]
    assert SUFFIXES[file.suffix](file)(torch.zeros(1, 3, SIZE, SIZE)).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_small_files_are_smaller(to: str, precision: str, tmp_path: Path) -> None:
    model = network(dims=(64, 64, 128, 128))
    maps = [torch.randn(1, 3, SIZE, SIZE) for _ in range(20)]
    target = TARGETS[to]
    sizes = {}
    for kind in ("fp32", precision):
        file = tmp_path / f"{kind}{target.suffix}"
        error = export_network(model, file, (3, SIZE, SIZE), to, kind, calibration=maps)
        sizes[kind] = sum(f.stat().st_size for f in target.files(file))
    assert 1e-5 < error < 0.2
    assert sizes[precision] < (0.7 if precision == "fp16" else 0.5) * sizes["fp32"]


def forecaster() -> Forecaster:
    inputs = ForecastInput(horizon=4, past=12, variables=("t", "p"), embed_dim=12)
    backbone = unireplknet.create_model("test_unireplknet", in_chans=1, num_classes=0, stem_stride=1)
    return randomise(Forecaster(backbone, 3, **inputs.forecaster())).eval()


@pytest.mark.parametrize(
    "to", [pytest.param("openvino", marks=pytest.mark.slow), pytest.param("torch-export", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_forecaster_keeps_physical_numbers_and_gaps(to: str, precision: str, tmp_path: Path) -> None:
    model = forecaster()
    model.mean.fill_(101325.0)  # pascals, which float16 cannot hold
    model.std.fill_(800.0)
    file = tmp_path / f"a{TARGETS[to].suffix}"
    export_network(model, file, model.window_shape, to, precision, free_size=False)
    windows = torch.randn(2, *model.window_shape)
    windows[:, :2] = windows[:, :2] * 800 + 101325
    windows[:, 0, 3:5, 1] = torch.nan
    with torch.no_grad():
        wanted = model(windows)
        found = SUFFIXES[file.suffix](file)(windows)
    assert relative_error(found - 101325, wanted - 101325) < (1e-4 if precision == "fp32" else TOLERANCES[precision])


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino", "torch-export"])
@pytest.mark.parametrize("decoder", ["unet", "upernet"])
def test_segmenter_for_images_of_any_size(decoder: Any, to: str, tmp_path: Path) -> None:
    model = randomise(Segmenter("test_unireplknet", 3, 4, decoder=decoder, width=64, stem_stride=2)).eval()
    file = tmp_path / f"a{TARGETS[to].suffix}"
    assert export_network(model, file, (3, 64, 64), to) < ROUNDING
    maps = torch.randn(1, 3, 53, 90)
    with torch.no_grad():
        assert relative_error(SUFFIXES[file.suffix](file)(maps), model(maps)) < ROUNDING


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (13, 4), (1, 9)])
@pytest.mark.parametrize("counts", [(1, 1), (2, 3), (6, 6)])
def test_averaged_parts_are_adaptive_pooling(size: tuple[int, int], counts: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    wanted = nn.functional.adaptive_avg_pool2d(maps, counts)
    torch.testing.assert_close(_AveragedParts(counts)(maps), wanted)


def test_graph_guards_are_no_stricter_than_the_file_says(tmp_path: Path) -> None:
    model = network(stem_stride=1)
    assert smallest_side(model) == 9
    file = tmp_path / "a.pt2"
    export_network(model, file, (3, 8, 9), "torch-export")
    fixed = SUFFIXES[".pt2"](file)
    assert fixed.metadata["size"] == "fixed"
    with pytest.raises(UserError, match=r"torch.export refuses maps of shape \(1, 3, 9, 9\)"):
        fixed(torch.zeros(1, 3, 9, 9))


def test_openvino_needs_both_files(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text("<net/>")
    with pytest.raises(UserError, match=r"a.bin is missing"):
        SUFFIXES[".xml"](file)
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(UserError, match="is not a file that OpenVINO reads"):
        SUFFIXES[".xml"](file)


@pytest.mark.parametrize("suffix", [".pt2", ".safetensors"])
def test_damaged_files_give_one_line(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=f"a{suffix} is not a {suffix[1:]}|a{suffix} is not a {suffix} file") as caught:
        SUFFIXES[suffix](file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("to", "precision", "message"),
    [
        ("onnx", "bf16", "onnx files hold fp32, fp16, int8, not bf16; bf16 is for torch-export, aoti, safetensors"),
        ("aoti", "int8", "int8 is for onnx, openvino"),
        ("tflite", "fp32", "no format 'tflite'; there are onnx, openvino"),
    ],
)
def test_what_cannot_be_written(to: str, precision: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_target(to, precision)


def test_endings_and_calibration_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.onnx has another ending than openvino files, .xml"):
        export_network(network(), tmp_path / "a.onnx", (3, SIZE, SIZE), "openvino")
    with pytest.raises(UserError, match="int8 needs maps of training samples"):
        export_network(network(), tmp_path / "a.onnx", (3, SIZE, SIZE), "onnx", "int8")


def test_aoti_without_a_compiler_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.raises(UserError, match=r"aoti needs a C\+\+ compiler, and there is none; --to torch-export"):
        export_network(network(), tmp_path / "a.pt2", (3, SIZE, SIZE), "aoti")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_spoken_against_does_not_replace_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(content: Content, path: Path) -> None:
        path.write_text("new graph")
        path.with_suffix(".bin").write_text("new weights")

    class Right(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            with torch.no_grad():
                return network()(maps)

    def judge(_: Any) -> None:
        raise UserError("it scores too little")

    fake = TARGETS["openvino"].__class__(("fp32",), ".xml", write, lambda _: Right(), (".bin",))  # type: ignore[arg-type, return-value]
    monkeypatch.setitem(TARGETS, "openvino", fake)
    for suffix in (".xml", ".bin"):
        (tmp_path / f"a{suffix}").write_text("old")
    with pytest.raises(UserError, match="it scores too little"):
        export_network(network(), tmp_path / "a.xml", (3, SIZE, SIZE), "openvino", judge=judge)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.xml": "old", "a.bin": "old"}
    export_network(network(), tmp_path / "a.xml", (3, SIZE, SIZE), "openvino")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.xml": "new graph", "a.bin": "new weights"}


def test_the_first_of_files_never_stands_beside_another_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.xml", tmp_path / "a.bin"
    first.write_text("old")
    second.write_text("old")

    def fail(*_: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="gone"), replacing_together(first, second) as folder:  # noqa: PT012
        (folder / "a.xml").write_text("new")
        (folder / "a.bin").write_text("new")
    assert {p.name for p in tmp_path.iterdir()} == {"a.bin"}
