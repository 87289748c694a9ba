import json
from pathlib import Path

import onnxruntime
import pytest

from unireplknet.cli import main
from unireplknet.deploy.exported import Exported, compare_scores
from unireplknet.training.evaluate import predict
from unireplknet.training.run import Run


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
    (maps,) = session.get_inputs()
    assert maps.shape == ["batch", 3, "height", "width"]


def test_predict_takes_the_file_in_place_of_the_run(file: Path, trained: Run) -> None:
    folder = Path(trained.recipe.data.path) / "red"
    for one, other in zip(predict(Exported(file), [folder]), predict(trained, [folder]), strict=True):
        assert (one.file, one.classes) == (other.file, other.classes)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_commands_print_the_error_and_the_prediction(
    trained: Run, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained.path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    path = trained.path / "model.onnx"
    assert first.startswith(f"written: {path}, ")
    assert float(first.rpartition(" ")[2]) < 1e-4
    name, of_the_run, of_the_file = compare_scores(trained, Exported(path))
    assert (name, of_the_run) == ("top-1", of_the_file)
    assert second == f"val: top-1 {of_the_file:.2%}, of the run {of_the_run:.2%}"
    path.unlink()
    blue = str(Path(trained.recipe.data.path) / "blue" / "03.png")
    assert main(["predict", str(file), blue, "--top", "1"]) == 0
    assert "blue " in capsys.readouterr().out


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
