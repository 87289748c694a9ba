import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import ablations
import numpy as np
import pytest
import torch
from ablations import ROWS, accuracy_table, collect, distinct, draw, finished, recipe_of, reduced, run_cell, spread
from PIL import Image

from tests.runs import image_recipe, write_tree
from unireplknet.errors import UserError
from unireplknet.files import write_text
from unireplknet.models.complexity import count_params

BY_LABEL = {row.label: row for row in ROWS}


def test_the_three_tables_have_fourteen_rows_and_twelve_networks() -> None:
    assert [sum(label.startswith(table) for label in BY_LABEL) for table in ("T3a", "T3b", "T3d")] == [5, 4, 5]
    assert len(distinct(ROWS)) == 12
    chosen = [BY_LABEL["T3d 9 LarK"], BY_LABEL["T3b dilated"]]  # both are the network of T3a D
    assert [row.label for row in distinct(chosen)] == ["T3a D: SE"]


@pytest.mark.parametrize(
    ("label", "stage3"),
    [
        ("T3a none", (13, 13, 13)),
        ("T3d 9 LarK", (13, 13, 13)),
        ("T3d 27 LarK", (13,) * 9),
        ("T3d 14 LarK + 13 SmaK", (13, 3, 13, 3, 13, 3, 13, 3, 13)),
        ("T3d 9 LarK + 18 SmaK", (13, 3, 3) * 3),
        ("T3d 9 LarK + 18 without 3x3", (13, 0, 0) * 3),
    ],
)
def test_a_reduced_row_keeps_its_kernels_in_proportion(label: str, stage3: tuple[int, ...]) -> None:
    model = reduced(BY_LABEL[label])
    assert model.kernel_sizes == ((3,), (13,), stage3, (13,))
    assert model.depths == (1, 1, len(stage3), 1)
    assert model.dims == (16, 32, 64, 128)


@pytest.mark.parametrize("row", distinct(ROWS), ids=lambda row: row.label)
def test_reduced_rows_can_be_built_and_have_the_stated_maps(row: ablations.Row) -> None:
    recipe = recipe_of(row, 0, "", epochs=1)
    model = recipe.model.build(3, "abcdefghi").eval()
    with torch.no_grad():
        _, maps = model.forward_intermediates(torch.zeros(1, 3, recipe.input.size, recipe.input.size))
    assert [tuple(m.shape[2:]) for m in maps] == [(28, 28), (14, 14), (7, 7), (4, 4)]


def test_what_a_row_varies_survives_the_reduction() -> None:
    built = {row.label: reduced(row).build(3, "abcdefghi") for row in distinct(ROWS)}
    plain, dilated = built["T3b no re-parameterization"], built["T3a D: SE"]
    alike, same_sizes = built["T3b same kernels, undilated"], built["T3b same sizes, undilated"]
    # 32 + 3 * 64 + 128 channels have 13x13 kernels; each branch is a k x k kernel, and it and
    # the main kernel, where it is not alone, have a BatchNorm of two vectors.
    added = 352 * (25 + 49 + 9 * 3 + 2 * 6)
    assert count_params(dilated) - count_params(plain) == count_params(alike) - count_params(plain) == added
    assert count_params(same_sizes) - count_params(plain) == 352 * (25 + 169 + 49 + 81 + 121 + 2 * 6)
    # SE with a bottleneck of a quarter: two matrices and two biases a block, C (C / 4) 2 + C / 4 + C.
    squeeze = sum(c * (c // 4) * 2 + c // 4 + c for c in (16, 32, 64, 64, 64, 128))
    assert count_params(dilated) - count_params(built["T3a none"]) == squeeze
    for model in (plain, dilated, alike, same_sizes):
        model.reparameterize()
    assert len({count_params(model) for model in (plain, dilated, alike, same_sizes)}) == 1


def fail(*arguments: object) -> NoReturn:
    raise AssertionError("trained again")


def test_finished_cells_are_kept_and_unfinished_ones_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = image_recipe(write_tree(tmp_path / "data", count=8), epochs=2)
    assert finished(recipe, tmp_path / "cells") is None
    run_cell(recipe, tmp_path / "cells")
    run = finished(recipe, tmp_path / "cells")
    assert run is not None
    outcome = run.results["test"]
    assert 0 <= outcome["top1"] <= 1
    with monkeypatch.context() as patch:
        patch.setattr(ablations, "fit", fail)
        patch.setattr(ablations, "score", fail)
        run_cell(recipe, tmp_path / "cells")
    # Killed between training and scoring: only the scoring is made up for.
    write_text(run.path / "results.json", json.dumps({k: v for k, v in run.results.items() if k != "test"}))
    with monkeypatch.context() as patch:
        patch.setattr(ablations, "fit", fail)
        run_cell(recipe, tmp_path / "cells")
    assert run.results["test"] == outcome
    # Killed while training: the run in the folder is taken up, not a new one begun.
    write_text(run.path / "results.json", json.dumps({"data": run.results["data"]}))
    assert finished(recipe, tmp_path / "cells") is None
    written = (run.path / "last.ckpt").stat().st_mtime_ns
    run_cell(recipe, tmp_path / "cells")
    assert run.results["test"] == outcome
    assert (run.path / "last.ckpt").stat().st_mtime_ns == written


def test_cells_with_other_settings_are_not_taken_for_these(tmp_path: Path, trained: ablations.Run) -> None:
    shutil.copytree(trained.path, tmp_path / "tiny")
    recipe = trained.recipe
    assert finished(recipe, tmp_path) is not None
    recipe = replace(recipe, trainer=replace(recipe.trainer, seed=1))
    with pytest.raises(UserError, match=r"tiny is a finished run with other settings: trainer.seed is 0 there and 1"):
        finished(recipe, tmp_path)


def test_cells_have_names_of_their_own() -> None:
    names = {recipe_of(row, seed, "", 1).name for row in ROWS for seed in (0, 1)}
    assert len(names) == 2 * len(ROWS)
    assert all(name.replace("-", "").isalnum() for name in names)


def test_spread_is_mean_and_sample_deviation() -> None:
    assert spread([]) == "not run"
    assert spread([0.5]) == "50.00"
    values = [0.70, 0.73, 0.75]
    assert spread(values) == f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}"


def test_tables_and_picture_name_what_was_not_run(tmp_path: Path) -> None:
    entries = collect(tmp_path / "nothing", "", 1)
    entries[0] |= {"top1": [0.7, 0.8], "class_mean": [0.5, 0.5], "small_params": 12345}
    lines = accuracy_table(entries).splitlines()
    assert lines[2] == "| T3a none | 12 | 75.00 ± 7.07 | 50.00 ± 0.00 | 2 | 81.2 |"
    assert all("| not run | not run | 0 |" in line for line in lines[3:])
    draw(entries, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] == 1200
