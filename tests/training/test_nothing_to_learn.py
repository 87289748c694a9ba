"""What cannot be read never ends in something that looks like a success."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.runs import image_recipe, write_tree
from unireplknet.cli import main
from unireplknet.errors import UserError
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run, fit


def spoil(folder: Path) -> None:
    for file in folder.rglob("*.png"):
        file.write_bytes(b"x")


def with_splits(root: Path) -> Path:
    """A tree with train/ and val/."""
    for name in ("train", "val"):
        write_tree(root / name, count=4)
    return root


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None", "ignore:The ..compute.. method")
@pytest.mark.parametrize(("spoiled", "named"), [("", "training"), ("train", "training"), ("val", "val")])
def test_a_training_without_a_readable_sample_stops(spoiled: str, named: str, tmp_path: Path) -> None:
    data = with_splits(tmp_path / "data")
    spoil(data / spoiled)
    with pytest.raises(UserError, match=f"none of the {named} samples could be read; the first: "):
        fit(image_recipe(data), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert not run.finished
    assert not (run.path / "best.ckpt").exists()


def test_a_score_that_is_not_a_number_is_never_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics import MeanMetric

    recipe = image_recipe(write_tree(tmp_path / "data"))
    monkeypatch.setattr(MeanMetric, "compute", lambda self: torch.tensor(float("nan")))
    with pytest.raises(UserError, match="val/loss is not a number after epoch 1"):
        fit(recipe, tmp_path / "run")
    assert not Run.open(tmp_path / "run").finished


def test_a_bit_that_flipped_in_the_best_epoch_is_noticed(tmp_path: Path) -> None:
    run = fit(image_recipe(write_tree(tmp_path / "data"), epochs=1), tmp_path / "run")
    file = run.path / "best.ckpt"
    content = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        members = sorted(archive.infolist(), key=lambda info: -info.file_size)[:5]
    for number, info in enumerate(members):
        at = info.header_offset + 200 + info.file_size // 2
        damaged = bytearray(content)
        damaged[at] ^= 1 << number
        file.write_bytes(bytes(damaged))
        with pytest.raises(UserError, match=r"best.ckpt cannot be read: damaged: the checksum of .* is wrong"):
            run.load_model()
    file.write_bytes(content)
    run.load_model()


def test_foreign_code_in_a_run_is_named_in_our_words(tmp_path: Path) -> None:
    run = fit(image_recipe(write_tree(tmp_path / "data"), epochs=1), tmp_path / "run")
    torch.save({"state_dict": {"a": Path("x")}}, run.path / "best.ckpt")
    with pytest.raises(UserError) as caught:
        run.load_model()
    assert "could run code, and was not loaded" in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("name", ["../escaped", "a/b", "a\\b", "..", "", "a\nb", " a"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    recipe = image_recipe(tmp_path)
    with pytest.raises(UserError, match="expected a plain name"):
        replace(recipe, name=name)
    recipe.save(tmp_path / "config.yaml")
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content | {"name": name}))
    with pytest.raises(UserError, match="expected a plain name"):
        Recipe.load(tmp_path / "config.yaml")


@pytest.mark.parametrize("mark", ["\u2028", "\u0085", "\u001c", "\v"])
def test_class_names_keep_what_unicode_calls_ends_of_lines(mark: str, tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data")
    (data / "red").rename(data / f"red{mark}hot")
    run = fit(image_recipe(data, epochs=1), tmp_path / "run")
    assert f"red{mark}hot" in Run.open(run.path).names
    run.load_model()


def test_a_class_name_with_a_line_break_is_refused_before_training(tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data")
    (data / "red").rename(data / "red\nhot")
    with pytest.raises(UserError, match="holds a line break"):
        fit(image_recipe(data, epochs=1), tmp_path / "run")


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_no_class_at_all_cannot_be_asked_for(
    value: str, trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(trained.path), str(tmp_path), "--top", value]) == 2
    assert "expected a whole number of at least 1" in capsys.readouterr().err


def test_other_formats_under_the_name_of_a_picture_start_no_program(tmp_path: Path) -> None:
    from unireplknet.data.io import open_image

    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(OSError, match="cannot identify image file"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("depth", [255, 1023, 4095, 65535])
def test_gray_maps_of_every_depth(depth: int, tmp_path: Path) -> None:
    from unireplknet.data.io import convert, open_image

    values = np.linspace(0, depth, 60).astype(np.uint16).reshape(6, 10)
    content = values.astype(">u2" if depth > 255 else np.uint8).tobytes()
    (tmp_path / "a.pgm").write_bytes(b"P5\n10 6\n%d\n" % depth + content)
    with open_image(tmp_path / "a.pgm") as image:
        found = np.asarray(convert(image, "L"))
    np.testing.assert_allclose(found, values * (255 / depth), atol=1)
