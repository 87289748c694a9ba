import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from PIL import Image
from torch import nn

from tests import runs
from tests.deploy.compiler import compiler
from tests.videos import write_video
from unireplknet.cli import main
from unireplknet.deploy import exported as module
from unireplknet.deploy.exported import Exported, export_run
from unireplknet.errors import UserError
from unireplknet.modalities import MODALITIES
from unireplknet.modalities.audio import AudioInput
from unireplknet.modalities.image import ImageInput
from unireplknet.modalities.points import PointsInput
from unireplknet.modalities.video import VideoInput
from unireplknet.tasks.classify.score import predict
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer
from unireplknet.training.run import Run, fit

DOCS = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def file(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "colours.onnx"
    assert main(["export", str(trained.path), "--to", "onnx", "--out", str(path), "--license", "CC0-1.0"]) == 0
    return path


def test_file_says_all_that_a_program_without_us_needs(file: Path, trained: Run) -> None:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["names"]) == ["blue", "green", "red"]
    assert json.loads(said["input_shape"]) == [3, 8, 8]
    settings = json.loads(said["preprocessing"])
    assert (settings["size"], settings["fit"], settings["mean"]) == (8, "squash", [0.485, 0.456, 0.406])
    assert (said["modality"], said["activation"], said["license"]) == ("image", "softmax", "CC0-1.0")
    assert (said["precision"], said["size"]) == ("fp32", "any")
    assert trained.recipe.data.path not in "".join(said.values()), "where the data lie is nobody's business"
    (maps,) = session.get_inputs()
    assert maps.shape == ["batch", 3, "height", "width"]


def test_predict_takes_the_file_in_place_of_the_run(file: Path, trained: Run) -> None:
    folder = Path(trained.recipe.data.path) / "red"
    for one, other in zip(predict(Exported.open(file), [folder]), predict(trained, [folder]), strict=True):
        assert (one.file, one.classes) == (other.file, other.classes)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_evaluate_takes_the_file_and_divides_the_data_alike(
    file: Path, trained: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(file)]) == 2
    assert "needs a path: add --data PATH" in capsys.readouterr().err
    assert main(["evaluate", str(file), "--data", trained.recipe.data.path]) == 0
    folder = file.with_name("colours-onnx")
    assert f"written: {folder / 'evaluation-test.json'}" in capsys.readouterr().out
    assert main(["evaluate", str(trained.path)]) == 0
    ours, theirs = (json.loads((f / "evaluation-test.json").read_text()) for f in (trained.path, folder))
    assert ours == theirs
    assert list(trained.load_data().splits["val"].items) == list(
        Exported.open(file).load_data(trained.recipe.data.path).splits["val"].items
    )


def test_program_of_the_documentation_needs_no_torch(file: Path, trained: Run, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (program,) = (block for block in blocks if "import onnxruntime" in block)
    assert "unireplknet" not in program
    shutil.copy(file, tmp_path / "digits.onnx")
    blocked = "import sys\nsys.modules |= dict.fromkeys(('torch', 'torchvision', 'unireplknet'))\n"
    for name in trained.classes:
        picture = Path(trained.recipe.data.path) / name / "05.png"
        shutil.copy(picture, tmp_path / "digit.png")
        script = blocked + program + "\nprint(outputs.tolist())"
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said, outputs = done.stdout.splitlines()
        (prediction,) = predict(trained, [picture], top=3)
        assert said == prediction.classes[0]
        found = torch.tensor(json.loads(outputs)).softmax(1)[0].sort(descending=True).values
        assert found.tolist() == pytest.approx(prediction.probabilities, abs=1e-4)


def test_commands_print_the_error_and_the_prediction(
    trained: Run, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained.path)]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    path = trained.path / "model.onnx"
    assert first.startswith(f"written: {path}, ")
    assert float(first.rpartition(" ")[2]) < 1e-4
    assert "(3, 8, 8) in training, height and width in the file: any" in second
    val = trained.load_data().splits["val"]
    of_the_file = trained.recipe.task.measure(Exported.open(path).load_model(), trained, val)["top-1"]
    assert of_the_file == trained.recipe.task.measure(trained.load_model(), trained, val)["top-1"]
    assert third == f"val: top-1 {of_the_file}, of the run {of_the_file}"
    path.unlink()
    blue = str(Path(trained.recipe.data.path) / "blue" / "03.png")
    assert main(["predict", str(file), blue, "--top", "1"]) == 0
    assert "blue " in capsys.readouterr().out


def test_int8_is_calibrated_on_training_samples_and_judged_by_its_score(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, shown = tmp_path / "a.onnx", []
    original = module.export_network

    def spy(*args: Any, **kwargs: Any) -> float:
        shown.extend(args[7])
        return original(*args, **kwargs)

    monkeypatch.setattr(module, "export_network", spy)
    report = export_run(trained, path, precision="int8", calibration=12)
    assert 1e-4 < report.error < 0.3
    train = {s.map.numpy().tobytes() for s in _samples(trained, "train") if s.map is not None}
    assert len({m.numpy().tobytes() for m in shown}) >= 11  # one of the samples may be the broken picture
    assert all(m[0].numpy().tobytes() in train for m in shown)
    after, before = (score.value for score in report.scores["top-1"])
    assert after >= before - module.POINTS
    monkeypatch.setattr(module, "POINTS", -2.0)
    kept = path.read_bytes()
    with pytest.raises(UserError, match="more than is accepted is lost"):
        export_run(trained, path, precision="int8", calibration=12)
    assert path.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def _samples(run: Run, name: str) -> list[Any]:
    from unireplknet.data.dataset import Draw
    from unireplknet.training.loader import build_loader

    split = run.load_data().splits[name]
    return [build_loader(run.recipe, split).dataset[Draw(0, i)] for i in range(len(split))]


def test_int8_without_data_and_names_of_the_runs_own_files_are_refused(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(trained.path)]
    assert main([*words, "--precision", "int8", "--data", str(tmp_path / "gone")]) == 2
    assert "int8 needs the training samples: " in capsys.readouterr().err
    before = (trained.path / "model.safetensors").read_bytes()
    assert main([*words, "--to", "safetensors", "--out", str(trained.path / "model.safetensors")]) == 2
    assert "holds the weights of the run" in capsys.readouterr().err
    assert (trained.path / "model.safetensors").read_bytes() == before
    assert main([*words, "--precision", "bf16"]) == 2
    assert "onnx files hold fp32, fp16, int8, not bf16" in capsys.readouterr().err


def test_data_that_are_gone_leave_an_unscored_file(trained: Run, tmp_path: Path) -> None:
    report = export_run(trained, tmp_path / "a.safetensors", "safetensors", data=str(tmp_path / "gone"))
    assert report.path.is_file()
    assert report.scores == {}
    assert "val: not scored, " in report.lines()[-1]


@pytest.mark.parametrize(
    "to", ["openvino", "torch-export", "safetensors", pytest.param("aoti", marks=[pytest.mark.slow, compiler])]
)
def test_predict_and_evaluate_take_every_format(to: str, trained: Run, tmp_path: Path) -> None:
    suffix = module.find_target(to, "fp32").suffix
    report = export_run(trained, tmp_path / f"a{suffix}", to)
    folder = Path(trained.recipe.data.path) / "green"
    for one, other in zip(predict(Exported.open(report.path), [folder]), predict(trained, [folder]), strict=True):
        assert one.classes == other.classes
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert evaluation(report.path, trained.recipe.data.path) == evaluation(trained.path)


def evaluation(model: Path, data: str = "") -> dict[str, Any]:
    """What the command notes about a run, or a file in its place, on the test split."""
    assert main(["evaluate", str(model), *(["--data", data] if data else [])]) == 0
    folder = model.with_name(f"{model.stem}-{model.suffix[1:]}") if model.is_file() else model
    return json.loads((folder / "evaluation-test.json").read_text(encoding="utf-8"))


def write_samples(modality: str, root: Path) -> Any:
    """Two kinds of samples, twelve of each, and how they become maps."""
    for number, kind in enumerate(("one", "two")):
        (root / kind).mkdir(parents=True)
        for i in range(12):
            rng = np.random.default_rng(i)
            if modality == "image":
                pixels = rng.normal(60 + 120 * number, 20, (9, 11, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / kind / f"{i}.png")
            elif modality == "audio":
                wave = np.sin(np.arange(3000) * (0.3 + number)) + rng.normal(0, 0.1, 3000)
                soundfile.write(root / kind / f"{i}.wav", 0.3 * wave, 8000)
            elif modality == "points":
                np.save(root / kind / f"{i}.npy", rng.normal(size=(150, 3)) * (1, 1, 0.1 + 0.9 * number))
            else:
                frames = rng.integers(90 * number, 90 * number + 90, (8, 32, 32, 3), dtype=np.uint8)
                write_video(root / kind / f"{i}.mp4", frames=frames)
    return {
        "image": lambda: ImageInput(size=16, fit="squash"),
        "audio": lambda: AudioInput(rate=8000, frames=32, mels=16),
        "points": lambda: PointsInput(points=100, size=16, directions=((0, 0), (90, 0), (0, 90))),
        "video": lambda: VideoInput(frames=4, stride=1, grid=(2, 2), size=16),
    }[modality]()


def settings_of(modality: str, root: Path) -> tuple[Recipe, list[str]]:
    """A recipe that learns small data, and files to predict."""
    if modality == "series":
        data = runs.write_weather(root)
        return runs.forecast_recipe(data, epochs=1), [str(data / "weather.csv")]
    inputs = write_samples(modality, root)
    recipe = Recipe(
        "kinds",
        model=Model("test_unireplknet", stem_stride=1, dims=(8, 8, 16, 16)),
        data=Data("folder", str(root), val_fraction=0.25),
        input=inputs,
        augment=MODALITIES[modality].augment(),
        optim=Optim(epochs=6, batch_size=4, lr=1e-2, warmup_epochs=1, ema=0.5),
        trainer=Trainer(select="loss", progress=False, accelerator="cpu"),
    )
    return recipe, [str(root / "one"), str(root / "two")]


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["image", "audio", "points", "series", "video"])
def test_every_modality_through_the_command_line(
    modality: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, files = settings_of(modality, tmp_path / "data")
    recipe.save(tmp_path / "recipe.yaml")
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "recipe.yaml"), "--out", str(run)]) == 0

    def predicted(model: Path) -> np.ndarray:
        capsys.readouterr()
        assert main(["predict", str(model), *files, "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        if modality == "series":
            return np.genfromtxt(found[0]["table"], delimiter=",", skip_header=1)[:, 2:]
        assert len(found) == 24
        return np.array([[p for _, p in sorted(zip(f["classes"], f["probabilities"], strict=True))] for f in found])

    wanted, scores = predicted(run), evaluation(run)
    assert np.ptp(wanted, axis=0).max() > 1e-3, "samples that all look alike would show nothing"
    for to, suffix in (("onnx", ".onnx"), ("openvino", ".xml")):
        file = tmp_path / f"model{suffix}"
        assert main(["export", str(run), "--to", to, "--out", str(file)]) == 0
        np.testing.assert_allclose(predicted(file), wanted, rtol=0, atol=1e-4 * abs(wanted).max())
        found = numbers(evaluation(file, str(tmp_path / "data")))
        assert found
        assert found == pytest.approx({key: numbers(scores)[key] for key in found}, rel=1e-4, abs=1e-6)


def numbers(found: Any, name: str = "") -> dict[str, float]:
    """The numbers in what JSON holds, by their places."""
    if not isinstance(found, dict | list):
        return {name: found} if isinstance(found, int | float) else {}
    items = found.items() if isinstance(found, dict) else enumerate(found)
    return {key: leaf for place, value in items for key, leaf in numbers(value, f"{name}/{place}").items()}


def test_worse_scores_speak_against_a_file(trained: Run) -> None:
    class Constant(nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(maps), 3)

    val = trained.load_data().splits["val"]
    with pytest.raises(UserError, match=r"has top-1 0\.\d+ on the val split, the run"):
        module._compare(trained, Constant(), trained.load_model(), val)  # type: ignore[arg-type]


@pytest.mark.slow
def test_forecasts_of_a_file_are_those_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = runs.write_weather(tmp_path / "data")
    run = fit(runs.forecast_recipe(data), tmp_path / "run")
    file = tmp_path / "breeze.onnx"
    assert main(["export", str(run.path), "--out", str(file)]) == 0
    assert "val: MAE of temp" in capsys.readouterr().out
    table = str(data / "weather.csv")
    assert main(["predict", str(file), table]) == 0
    assert main(["predict", str(run.path), table]) == 0
    ours, theirs = (
        np.genfromtxt(f / "forecast-weather.csv", delimiter=",", skip_header=1)[:, 2:]
        for f in (run.path, tmp_path / "breeze-onnx")
    )
    np.testing.assert_allclose(theirs, ours, rtol=2e-3)
    assert main(["evaluate", str(file), "--data", str(data)]) == 0
    assert "persistence" in capsys.readouterr().out
    assert main(["export", str(run.path), "--to", "openvino", "--precision", "int8"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["unet", "upernet"])
def test_masks_of_a_file_are_those_of_the_run(decoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = runs.write_scenes(tmp_path / "data")
    run = fit(runs.mask_recipe(data, decoder=decoder), tmp_path / "run")
    file = tmp_path / "scenes.onnx"
    assert main(["export", str(run.path), "--out", str(file)]) == 0
    assert "height and width in the file: any" in (said := capsys.readouterr().out)
    assert "val: mean IoU" in said
    image = str(data / "images" / "01.png")
    for model, folder in ((file, "of-the-file"), (run.path, "of-the-run")):
        assert main(["predict", str(model), image, "--pictures", str(tmp_path / folder)]) == 0
    ours, theirs = (np.asarray(Image.open(tmp_path / f / "01-mask.png")) for f in ("of-the-run", "of-the-file"))
    assert (ours == theirs).mean() > 0.999
    assert main(["evaluate", str(file), "--data", str(data)]) == 0


@pytest.mark.parametrize(
    ("content", "message"), [(b"nonsense", "is not an ONNX file"), (None, "is not a run folder"), (b"", "modality")]
)
def test_other_files(content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.onnx"
    if content:
        path.write_bytes(content)
    elif content is not None:
        from onnx import TensorProto, helper

        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        path.write_bytes(model.SerializeToString())
    assert main(["predict", str(path), "x.png"]) == 2
    captured = capsys.readouterr().err
    assert message in captured
    assert captured.count("\n") == 1


def test_files_of_other_kinds_are_neither_run_nor_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    assert main(["predict", str(tmp_path / "a.png"), "x.png"]) == 2
    assert "is neither a run folder nor an exported file, which end in .onnx, .xml, .pt2, .safetensors" in (
        capsys.readouterr().err
    )
