import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import image_recipe, write_tree
from unireplknet import __version__
from unireplknet.cli import COMMANDS, main
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run


def complaint(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a user's mistake gives."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("unireplknet: error: ")
    return captured.err.removeprefix("unireplknet: error: ").rstrip()


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: unireplknet {command}" in capsys.readouterr().out


def test_recipe_help_shows_the_recipes_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--optim.lr" in out
    assert "--data PATH" in out
    assert "Score: " in out
    assert "unireplknet_a" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "no command 'trian'; did you mean train?"),
        (["train"], "which recipe? One of digits, folder, "),
        (["train", "digit"], "no recipe 'digit'; did you mean digits?"),
        (["train", "digits", "--optim.lrr", "3"], "unknown flag --optim.lrr; did you mean --optim.lr?"),
        (["train", "digits", "--ouch", "3"], "unknown flag --ouch"),
        (["train", "digits", "--optim.lr"], "--optim.lr"),
        (["train", "digits", "--trainer.select", "luck"], "trainer.select is luck, which classification does not have"),
        (["train", "mnist"], "data.source 'mnist' needs a path: add --data PATH"),
        (["train", "mnist", "--data", "nowhere"], "train-images-idx3-ubyte is missing"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["predict", "nowhere", "x.png"], "nowhere is not a run folder"),
        (["predict", "nowhere"], "nowhere is not a run folder"),
        (["evaluate", "x", "--split", "all"], "invalid choice: 'all'"),
        (["pack", "x"], "the following arguments are required: OUT"),
        (["pack", "nowhere", "out"], "nowhere is not a folder"),
        (["pack", "x", "y", "--shard-size", "large"], "'large' is not a size such as 256MB"),
        (["pack", "x", "y", "--modality", "smell"], "invalid choice: 'smell'"),
        (["pack", "x", "y", "--modality", "segment"], "invalid choice: 'segment'"),
        (
            ["train", "folder", "--data.source", "shards", "--data", "nowhere"],
            "nowhere does not exist; expected a folder",
        ),
        (["bench", "unireplknet_q"], "unireplknet_q is neither a network of timm nor an exported file"),
        (["bench", "nowhere.onnx"], "nowhere.onnx is not a file"),
        (["bench", "unireplknet_a", "--engine", "egaer"], "no engine 'egaer'; did you mean eager?"),
        (["bench", "unireplknet_a", "--batch", "0"], "batch is 0; expected at least 1"),
        (["bench", "unireplknet_a", "--protocol", "paper", "--batch", "8"], "--protocol paper sets --batch"),
        (["bench", "unireplknet_a", "--engine", "openvino", "--mode", "train"], "openvino does not train"),
        (["bench", "unireplknet_a", "--out", "x.csv"], "expected a name that ends in .json"),
        (["bench", "unireplknet_a", "--out", "nowhere/x.json"], "there is no folder nowhere"),
        (["demo", "--epochs", "many"], "invalid int value: 'many'"),
    ],
)
def test_mistakes_give_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in complaint(words, capsys)


def test_train_evaluate_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_tree(tmp_path / "data", count=8)
    image_recipe(tmp_path / "elsewhere").save(tmp_path / "tiny.yaml")
    run = str(tmp_path / "run")
    words = ["train", str(tmp_path / "tiny.yaml"), "--data", str(data), "--out", run, "--optim.epochs", "2"]
    assert main(words) == 0
    assert "test: top-1" in capsys.readouterr().out
    assert Run.open(run).recipe.optim.epochs == 2
    assert Run.open(run).recipe.data.path == str(data)

    assert main(["evaluate", run, "--split", "val"]) == 0
    assert "val: top-1" in capsys.readouterr().out

    assert main(["predict", run, str(data / "red"), "--top", "2", "--format", "json"]) == 0
    predictions = json.loads(capsys.readouterr().out)
    assert len(predictions) == 9
    assert sum(bool(p["problem"]) for p in predictions) == 1

    assert main(["predict", run, str(data / "red" / "00.png"), str(data / "red" / "broken.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("unreadable")

    assert main(["predict", run, str(data / "red" / "00.png"), "--pictures", str(tmp_path / "seen")]) == 0
    assert "00.png" in capsys.readouterr().out
    assert (tmp_path / "seen" / "00-seen.png").exists()

    assert "never overwritten" in complaint(words, capsys)
    assert "the data have 3 classes" in complaint([*words, "--model.num_classes", "4"], capsys)


def test_pack_then_train_and_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data, shards, run = write_tree(tmp_path / "data", count=8), str(tmp_path / "shards"), str(tmp_path / "run")
    assert main(["pack", str(data), shards, "--shard-size", "0.1GB", "--samples", "10"]) == 0
    out = capsys.readouterr().out
    assert "  all    25 samples, 3 shards, 0.1 MB" in out
    assert f"train with --data.source shards --data {shards}" in out
    assert "packing never overwrites" in complaint(["pack", str(data), shards], capsys)

    image_recipe(tmp_path / "elsewhere").save(tmp_path / "tiny.yaml")
    words = ["train", str(tmp_path / "tiny.yaml"), "--optim.epochs", "3", "--out", run]
    window = ["--data.window", "2"]
    assert "which only data.source shards has a use for" in complaint([*words, "--data", str(data), *window], capsys)
    assert main([*words, "--data.source", "shards", "--data", shards, *window]) == 0
    assert "test: top-1" in capsys.readouterr().out
    assert main(["evaluate", run, "--data", f"{shards}/manifest.json"]) == 0
    assert "not the one that" not in caplog.text, "the same samples, named in another way"
    assert main(["predict", run, str(data / "red" / "00.png")]) == 0


def test_info_shows_computed_beside_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "t"]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[:2] == ["unireplknet_t", "224"]
    assert row[3:] == ["31.04", "31.00", "31.0", "4.90", "4.9"]
    assert main(["info", "T3d 9 LarK + 18 SmaK", "--ablations"]) == 0
    assert "T3d 9 LarK + 18 SmaK" in capsys.readouterr().out
    assert "no variant 'unireplknet_q'; did you mean unireplknet_" in complaint(["info", "unireplknet_q"], capsys)


def test_doctor_names_versions_devices_and_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert __version__ in out
    for word in ("torch ", "cpu: ", "depthwise convolution", "reference: runs", "C++ compiler"):
        assert word in out


def test_python_m_runs_it_and_a_mistake_shows_no_trace() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unireplknet", "evaluate", "nowhere"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("unireplknet: error: ")
    assert done.stderr.count("\n") == 1


def test_bench_prints_a_table_and_writes_a_result_and_a_picture_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unireplknet.deploy.entrants import NetworkEntrant
    from unireplknet.models.published import Accuracy

    published = Accuracy("test_unireplknet", "", 32, 77.7, "nobody")
    monkeypatch.setattr(NetworkEntrant, "published", published)
    out = tmp_path / "speed.json"
    words = ["bench", "test_unireplknet", "--size", "32", "--batch", "2", "3", "--rounds", "2", "--seconds", "0"]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.count("test_unireplknet  eager") == 2
    assert "77.7" in said
    result = json.loads(out.read_text())
    assert [row["batch"] for row in result["contenders"]] == [2, 3]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "exists already" in complaint([*words, "--out", str(out)], capsys)


def test_bench_says_when_nothing_ran(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "swin_tiny_patch4_window7_224", "--size", "32", "--batch", "1", "--rounds", "1"]) == 2
    captured = capsys.readouterr()
    assert "failed: AssertionError: Input height (32)" in captured.out
    assert "nothing could be timed" in captured.err


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
def test_a_command_parses_the_configuration_once(
    command: str, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Path] = []
    load = Recipe.load

    def counting(path: Path) -> Recipe:
        parsed.append(path)
        return load(path)

    monkeypatch.setattr(Recipe, "load", staticmethod(counting))
    more = {"predict": [trained.recipe.data.path], "export": ["--out", str(tmp_path / "model.onnx")]}
    parsed.clear()
    assert main([command, str(trained.path), *more.get(command, [])]) == 0
    assert parsed == [trained.path / "config.yaml"]


@pytest.mark.parametrize(
    ("recipe", "has", "lacks"),
    [
        ("digits", ["--optim.mixup", "--optim.loss", "--model.row"], ["--head."]),
        ("masks", ["--head.decoder", "--optim.label_smoothing"], ["--optim.mixup", "--model.row", "--head.anchors"]),
        ("boxes", ["--head.anchors", "--head.rois"], ["--optim.label_smoothing", "--head.decoder"]),
        ("weather", ["--head.loss", "--input.horizon", "--model.drop "], ["--optim.loss", "--model.num_classes"]),
        ("series", ["--input.channels", "--optim.loss"], ["--input.horizon", "--head.loss"]),
    ],
)
def test_help_of_a_recipe_has_what_matters(
    recipe: str, has: list[str], lacks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", recipe, "--help"]) == 0
    out = capsys.readouterr().out
    assert [flag for flag in has if flag not in out] == []
    assert [flag for flag in lacks if flag in out] == []


def test_settings_of_another_task_are_no_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown flag --head.anchors" in complaint(["train", "digits", "--head.anchors", "[8]"], capsys)
    assert "unknown flag --optim.mixup" in complaint(["train", "boxes", "--data", "x", "--optim.mixup", "0.2"], capsys)


def test_names_from_outside_reach_the_terminal_escaped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b]0;title\x07\n\u202eb.png"
    assert main(["predict", str(tmp_path / name), name]) == 2
    shown = capfd.readouterr().err
    assert shown.count("\n") == 1
    assert not set(shown) & {"\x1b", "\x07", "\u202e"}
    assert "\\x1b]0;title\\x07\\n\\u202eb.png" in shown
