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
import torch
from torch import nn

from tests import scenes, series_data
from unireplknet.cli import main
from unireplknet.deploy import exported as module
from unireplknet.deploy.exported import Exported, export_run, val_scores
from unireplknet.errors import UserError
from unireplknet.training.evaluate import predict
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
    of_the_file = val_scores(trained, Exported.open(path).load_model(), val)["top-1"]
    assert of_the_file == val_scores(trained, trained.load_model(), val)["top-1"]
    assert third == f"val: top-1 {of_the_file:.2%}, of the run {of_the_file:.2%}"
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
    after, before = report.scores["top-1"]
    assert after >= before - module.POINTS
    monkeypatch.setattr(module, "POINTS", -2.0)
    kept = path.read_bytes()
    with pytest.raises(UserError, match="more than is accepted is lost"):
        export_run(trained, path, precision="int8", calibration=12)
    assert path.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def _samples(run: Run, name: str) -> list[Any]:
    from unireplknet.modalities.folder import Draw
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


@pytest.mark.parametrize("to", ["openvino", "torch-export", "safetensors"])
def test_predict_takes_every_format(to: str, trained: Run, tmp_path: Path) -> None:
    suffix = module.find_target(to, "fp32").suffix
    report = export_run(trained, tmp_path / f"a{suffix}", to)
    folder = Path(trained.recipe.data.path) / "green"
    for one, other in zip(predict(Exported.open(report.path), [folder]), predict(trained, [folder]), strict=True):
        assert one.classes == other.classes
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_worse_scores_speak_against_a_file(trained: Run) -> None:
    class Constant(nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(maps), 3)

    val = trained.load_data().splits["val"]
    with pytest.raises(UserError, match=r"has top-1 0\.\d+ on the val split, the run"):
        module._compare(trained, Constant(), trained.load_model(), val)  # type: ignore[arg-type]


@pytest.mark.slow
def test_forecasts_of_a_file_are_those_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = series_data.write_weather(tmp_path / "data")
    run = fit(series_data.forecast_recipe(data), tmp_path / "run")
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
    from PIL import Image

    data = scenes.write_scenes(tmp_path / "data")
    run = fit(scenes.tiny_recipe(data, decoder=decoder), tmp_path / "run")
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
