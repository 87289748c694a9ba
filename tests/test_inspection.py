"""The pictures of networks and runs, through the command line; what they show is checked in tests/insight."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from tests import runs
from tests.runs import image_recipe, untrained_run
from tests.videos import write_video
from unireplknet.cli import main
from unireplknet.insight import seen
from unireplknet.inspection import find_subject, look_at_fields
from unireplknet.modalities.audio import AudioInput
from unireplknet.modalities.image import ImageInput
from unireplknet.modalities.points import PointsInput
from unireplknet.modalities.series import SeriesInput
from unireplknet.modalities.video import VideoInput
from unireplknet.tasks.classify.views import look_at_attribution
from unireplknet.tasks.detect.inputs import DetectInput
from unireplknet.tasks.detect.task import DetectHead
from unireplknet.tasks.forecast.inputs import ForecastInput
from unireplknet.tasks.segment.inputs import SegmentInput
from unireplknet.tasks.segment.task import SegmentHead
from unireplknet.training.learner import build_learner
from unireplknet.training.recipe import Data
from unireplknet.training.run import Run


def write_sample(modality: str, folder: Path) -> tuple[Any, Path, int]:
    """An input, a file for it, and the number of panels that show it."""
    rng = np.random.default_rng(0)
    if modality == "image":
        Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(folder / "a.png")
        return ImageInput(size=16, fit="squash"), folder / "a.png", 1
    if modality == "audio":
        soundfile.write(folder / "a.wav", rng.normal(0, 0.1, 3000), 8000)
        return AudioInput(rate=8000, frames=32, mels=16), folder / "a.wav", 1
    if modality == "points":
        np.save(folder / "a.npy", rng.normal(size=(200, 3)))
        return PointsInput(points=100, size=16, directions=((0, 0), (90, 0), (0, 90))), folder / "a.npy", 3
    if modality == "video":
        return VideoInput(frames=4, stride=1, grid=(2, 2), size=16), write_video(folder / "a.mp4"), 4
    (folder / "a.csv").write_text("x,y\n" + "".join(f"{a},{b}\n" for a, b in rng.normal(size=(30, 2))))
    return SeriesInput(past=24, channels=2, variables=("x", "y")), folder / "a.csv", 2


def width(picture: Path) -> int:
    with Image.open(picture) as image:
        return image.size[0]


def file_of(run: Run, colour: str) -> str:
    return str(Path(run.recipe.data.path) / colour / "03.png")


def test_fields_of_networks_at_equal_depth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["test_unireplknet", "--kernels", "3", "7", "31", "--size", "256", "--count", "1", "--out", str(tmp_path)]
    assert main(["inspect", "field", *words]) == 0
    out = capsys.readouterr().out
    assert "test_unireplknet, K = 31" in out
    assert "untrained, residual branches at full strength" in out
    rows = json.loads((tmp_path / "field.json").read_text())
    assert [row["pixels"] for row in rows] == [[256, 256]] * 3
    areas = [row["area_ratio"]["50%"] for row in rows]
    assert areas == sorted(areas)
    assert areas[2] > 2 * areas[0]
    assert width(tmp_path / "field.png") > 900


def test_field_of_a_run_beside_another_network(trained: Run, tmp_path: Path) -> None:
    mine, other = look_at_fields(
        [find_subject(str(trained.path)), find_subject("test_resnet")], tmp_path, count=3, size=64
    )
    assert mine.scores.shape == (8, 8)  # its own samples
    assert mine.images == 3
    assert other.scores.shape == (64, 64)
    assert [row["trained"] for row in json.loads((tmp_path / "field.json").read_text())] == [True, False]


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_field_under_a_decoder_or_detector(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("segmentation_models_pytorch" if task == "segmentation" else "torchvision")
    if task == "segmentation":
        root = runs.write_scenes(tmp_path / "data")
        inputs, data = SegmentInput(size=32, short=32), Data("masks", str(root), val_fraction=0.25)
        head, sizes = SegmentHead("unet", 64), {(32, 32): 3}
    else:
        # Their shorter side becomes 48, or their longer one 80; then they are filled up to multiples of 32.
        root = runs.write_objects(tmp_path / "data", sizes=((48, 64), (48, 100), (48, 64)))
        inputs, data = DetectInput(short=48, long=80), Data("coco", str(root), val_fraction=0.25)
        head = DetectHead(width=16, anchors=(8, 16, 32, 64), head_width=16)
        sizes = Counter(
            (64, 96) if item.size == (100, 48) else (64, 64) for item in data.load(inputs).splits["val"].items
        )
    run = untrained_run(tmp_path / "run", inputs, data.load(inputs).names, data, head)
    assert main(["inspect", "field", str(run.path), "--out", str(tmp_path)]) == 0
    (found,) = json.loads((tmp_path / "field.json").read_text())
    assert (tuple(found["pixels"]), found["images"]) in sizes.items()
    assert found["images"] == max(sizes.values())
    subject = find_subject(str(run.path))
    before = subject.before_training()
    wanted = run.first_model().backbone.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in before.backbone.state_dict().items())
    alike = tmp_path / "alike"
    alike.mkdir()
    for name in ("00.png", "06.png"):
        shutil.copy(root / "images" / name, alike)
    first, then = look_at_fields([before, subject], tmp_path, str(alike), count=2)
    assert (first.name, then.name) == (f"{run.path}, untrained", str(run.path))
    assert first.images == then.images == 2
    assert not np.allclose(first.scores, then.scores)


def test_fields_over_files(trained: Run, tmp_path: Path) -> None:
    folder = str(Path(trained.recipe.data.path) / "blue")
    (field,) = look_at_fields([find_subject("test_resnet")], tmp_path, folder, count=99, size=64)
    assert field.images == 16


def test_looking_changes_neither_the_random_numbers_nor_the_run(trained: Run, tmp_path: Path) -> None:
    run, before = find_subject(str(trained.path)), trained.load_model().state_dict()
    state = torch.get_rng_state()
    look_at_fields([run, find_subject("test_resnet")], tmp_path, count=1, size=64)
    trained.first_model()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in trained.load_model().state_dict().items())


def test_kernels_of_a_run_before_and_after(trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "kernels", str(trained.path), "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "kernels.json").read_text())
    assert [row["trained"] for row in rows[:2]] == [False, True]
    assert rows[0]["branches"] != rows[1]["branches"]
    assert "stages.1.blocks.0.dwconv  untrained" in capsys.readouterr().out
    assert (tmp_path / "kernels.png").exists()


def test_first_model_is_the_one_that_training_began_with(trained: Run) -> None:
    import lightning.pytorch as pl

    pl.seed_everything(trained.recipe.trainer.seed, verbose=False)
    begun = build_learner(trained.recipe, trained.load_data(), 1).model.state_dict()
    rebuilt = trained.first_model().state_dict()
    assert all(torch.equal(value, rebuilt[key]) for key, value in begun.items())


@pytest.mark.parametrize("model", ["run", "test_convnext"])
def test_stages(trained: Run, tmp_path: Path, model: str) -> None:
    name = str(trained.path) if model == "run" else model
    assert main(["inspect", "stages", name, file_of(trained, "red"), "--out", str(tmp_path)]) == 0
    assert width(tmp_path / "03-stages.png") > 800


def test_attribution(trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("captum")
    words = [str(trained.path), file_of(trained, "red"), file_of(trained, "blue"), "--out", str(tmp_path)]
    assert main(["inspect", "attribution", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1].split()[0] for line in lines] == ["red", "blue"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000-03-attribution.png", "001-03-attribution.png"]
    (found,) = look_at_attribution(find_subject(str(trained.path)), [file_of(trained, "red")], tmp_path, "green")
    assert (found.label, found.probability < 0.5, found.gap < 0.2) == ("green", True, True)


@pytest.mark.parametrize("modality", ["audio", "points", "video", "series"])
def test_every_modality_that_classifies(
    modality: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("captum")
    inputs, file, count = write_sample(modality, tmp_path)
    run = str(untrained_run(tmp_path / "run", inputs, ("a", "b", "c")).path)
    drawn: list[Any] = []
    draw = seen.draw_seen
    monkeypatch.setattr(seen, "draw_seen", lambda *args: (drawn.append(args), draw(*args)))
    assert main(["inspect", "attribution", run, str(file), "--label", "b", "--out", str(tmp_path / "out")]) == 0
    assert "  b " in capsys.readouterr().out
    shown, heats = drawn[0][0], drawn[0][5]
    assert len(shown) == len(heats) == count
    assert all(panel.pixels.shape[:2] == weights.shape for panel, weights in zip(shown, heats, strict=True))
    assert any(weights.any() for weights in heats)
    assert main(["inspect", "stages", run, str(file), "--out", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000-a-attribution.png", "a-stages.png"]


def test_forecasts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = ForecastInput(horizon=4, past=12, variables=("t", "p"), embed_dim=12)
    path = untrained_run(tmp_path / "run", inputs, ("north", "south")).path
    (field,) = look_at_fields([find_subject(str(path))], tmp_path / "out", count=2)
    assert field.scores.shape == (12, 12)
    assert main(["inspect", "kernels", str(path), "--out", str(tmp_path / "out")]) == 0
    assert main(["inspect", "stages", str(path), "a.csv"]) == 2
    assert "is for forecasting; only networks that classify" in capsys.readouterr().err


def test_first_numbers_of_a_map_are_those_of_timm(tmp_path: Path) -> None:
    import timm

    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    subject = find_subject("convnext_atto")
    config = timm.data.resolve_model_data_config(subject.model)
    wanted = timm.data.create_transform(**config)(Image.fromarray(pixels))
    assert (subject.read(tmp_path / "a.png") - wanted).abs().max() < 0.1  # roundings of the scaled size


@pytest.mark.parametrize("modality", ["image", "audio", "points", "series", "video"])
def test_confusion_and_mistakes_of_every_modality(
    modality: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All samples are the same file, so that the network takes all for one class: half are right."""
    inputs, file, _ = write_sample(modality, tmp_path)
    data = tmp_path / "data"
    for split, count in (("train", 1), ("val", 2), ("test", 3)):
        for place in [data / split / name / str(i) for name in ("left", "right") for i in range(count)]:
            place.mkdir(parents=True)
            (place / file.name).write_bytes(file.read_bytes())
    run = untrained_run(tmp_path / "run", inputs, ("left", "right"), data=Data("folder", str(data)))
    out = tmp_path / "out"
    words = [str(run.path), "--out", str(out)]
    assert main(["inspect", "confusion", *words]) == 0
    assert "test: 3 of 6 samples right, 1 pairs" in capsys.readouterr().out
    found = json.loads((out / "confusion.json").read_text())
    (pair,) = found["confusions"]
    assert pair["samples"] == 3
    said = found["classes"].index(pair["said"])
    assert [[row[said], sum(row)] for row in found["matrix"]] == [[3, 3], [3, 3]]
    assert main(["inspect", "mistakes", *words, "--split", "val"]) == 0
    found = json.loads((out / "mistakes.json").read_text())
    assert found["split"] == "val"
    assert [(m["true"], m["said"]) for m in found["mistakes"]] == [(pair["true"], pair["said"])] * 2
    assert all(Path(m["sample"]).is_file() for m in found["mistakes"])
    assert width(out / "mistakes.png") > 900
    assert main(["inspect", "mistakes", *words, "--count", "1"]) == 0
    assert len(json.loads((out / "mistakes.json").read_text())["mistakes"]) == 1
    assert not (run.path / "evaluation-test.json").exists(), "looking leaves the run alone"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["confusion", "test_resnet"], "has not learnt the classes of any data"),
        (["mistakes", "RUN", "--count", "0"], "--count is 0"),
        (["field", "convnex_tiny"], "neither a run folder nor a network of timm; did you mean convnext_tiny?"),
        (["field", "RUN", "--kernels", "3"], "is trained: its kernels have the sizes that they have"),
        (["field", "test_resnet", "--kernels", "3"], "has no kernels whose size could be chosen"),
        (["field", "test_unireplknet", "--kernels", "4"], "kernel_size is 4, expected an odd number"),
        (["field", "test_resnet", "--count", "0"], "--count is 0"),
        (["field", "test_resnet", "--images", "nowhere"], "nowhere does not exist"),
        (["kernels", "test_resnet"], "no Dilated Reparam Block"),
        (["stages", "test_resnet", "nowhere.png"], "nowhere.png is not a file"),
        (["attribution", "test_resnet", "nowhere.png"], "attribution needs a run folder"),
        (["attribution", "RUN", "nowhere.png"], "nowhere.png does not exist"),
        (["attribution", "RUN", "nowhere.png", "--label", "rad"], "has no class 'rad'; did you mean red?"),
    ],
)
def test_mistakes(
    words: list[str], message: str, trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(trained.path) if word == "RUN" else word for word in words]
    assert main(["inspect", *given, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr().err
    assert message in captured
    assert captured.count("\n") == 1


def test_unfinished_recipe_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_recipe(tmp_path).save(tmp_path / "config.yaml")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert main(["inspect", "kernels", str(tmp_path)]) == 2
    assert "best.ckpt is missing" in capsys.readouterr().err
