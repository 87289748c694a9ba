import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import receptive_fields
import scene_runs
import torch
from PIL import Image
from scene_runs import NETWORKS, STUDIES, Cell, background_everywhere, convnext, equal_dim, table
from torchmetrics.classification import MulticlassJaccardIndex

from tests import runs
from unireplknet import UniRepLKNet, reparameterize
from unireplknet.models.complexity import count_params
from unireplknet.training.recipe import Model, Recipe


def recipe(task: str, network: str, seed: int = 0, epochs: int = 0) -> Recipe:
    return Cell(task, network, seed, epochs).recipe(Path("data"), Path("runs"))


def test_the_networks_have_about_the_same_number_of_parameters() -> None:
    with torch.device("meta"):
        counts = [count_params(convnext(equal_dim()))]
        for network in ("K=13", "K=3"):
            kwargs = {
                name: getattr(recipe("masks", network).model, name) for name in ("depths", "dims", "kernel_sizes")
            }
            counts.append(count_params(reparameterize(UniRepLKNet(num_classes=0, **kwargs))))
    assert counts[0] == pytest.approx(counts[1], rel=0.05)
    assert counts[0] == pytest.approx(counts[2], rel=0.15)


@pytest.mark.parametrize("task", STUDIES)
def test_networks_differ_in_the_backbone_alone(task: str) -> None:
    recipes = {network: recipe(task, network, 1, 2) for network in NETWORKS}
    others = [replace(r, model=None) for r in recipes.values()]
    assert others[0] == others[1] == others[2]
    assert (others[0].trainer.seed, others[0].optim.epochs) == (1, 2)
    assert recipes["K=13"].model.kernel_sizes == ((3,), (13,), (13, 13, 13), (3,))
    assert recipes["K=3"].model.kernel_sizes == ((3,), (3,), (3, 3, 3), (3,))
    names = {field.name for field in fields(Model)} - {"name", "dims", "kernel_sizes", "weights"}
    settings = [[getattr(r.model, name) for name in sorted(names)] for r in recipes.values()]
    assert settings[0] == settings[1] == settings[2]


def test_boxes_start_from_the_masks_of_the_same_network_seed_and_length() -> None:
    assert recipe("masks", "K=3", 2).model.weights == ""
    assert Path(recipe("boxes", "K=3", 2).model.weights) == Path("runs/masks-K=3-2-16").resolve()
    assert Path(recipe("boxes", "K=3", 2, 1).model.weights) == Path("runs/masks-K=3-2-1").resolve()


def test_what_is_noted_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Cell] = []

    def train(_: object, folder: Path, cell: Cell) -> dict[str, object]:
        assert folder == tmp_path / "runs" / str(cell)
        trained.append(cell)
        return {"score": 10.0 * len(trained), **cell.key}

    monkeypatch.setattr(scene_runs, "train", train)
    monkeypatch.setattr(scene_runs, "FILE", tmp_path / "scene_runs.json")
    monkeypatch.setattr(
        scene_runs, "write_result", lambda name, result: (tmp_path / f"{name}.json").write_text(json.dumps(result))
    )
    monkeypatch.setattr(scene_runs, "background_everywhere", lambda data: 9.0)
    given = ["scene_runs.py", "--data", str(tmp_path), "--runs", str(tmp_path / "runs")]
    for words in (["--only", "boxes", "--seeds", "0"], ["--only", "boxes"], ["--seeds", "0"]):
        monkeypatch.setattr(sys, "argv", [*given, *words])
        scene_runs.main()
    assert len(trained) == len(set(trained)) == 12
    rows = json.loads((tmp_path / "scene_runs.json").read_text(encoding="utf-8"))["rows"]
    assert "| boxes | box AP, % | 6 | 40.00 (10.00 to 70.00) |" in table(rows)
    assert "| masks | mean IoU, % | 16 | 100.00 |" in table(rows)


def test_what_background_everywhere_comes_to(tmp_path: Path) -> None:
    (tmp_path / "test" / "masks").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("background\na\nb\n", encoding="utf-8")
    masks = np.random.default_rng(0).choice(3, (4, 5, 7), p=(0.7, 0.2, 0.1)).astype(np.uint8)
    for i, mask in enumerate(masks):
        Image.fromarray(mask).save(tmp_path / "test" / "masks" / f"{i}.png")
    truth = torch.from_numpy(masks).long()
    expected = 100 * MulticlassJaccardIndex(3)(torch.zeros_like(truth), truth).item()
    assert background_everywhere(tmp_path) == pytest.approx(expected, rel=1e-6)


def test_a_run_that_is_kept_is_looked_into_and_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cell = runs.mask_recipe(runs.write_scenes(tmp_path / "data"), epochs=1), Cell("masks", "K=3", 0, 1)
    folder = tmp_path / "runs" / str(cell)
    row = scene_runs.train(recipe, folder, cell)
    assert folder.name == "masks-K=3-0-1"
    monkeypatch.setattr(scene_runs, "fit", None)
    assert scene_runs.train(recipe, folder, cell) == row

    noted = {}
    monkeypatch.setattr(receptive_fields, "write_result", noted.__setitem__)
    monkeypatch.setattr(receptive_fields, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["receptive_fields.py", "--trained", str(folder)])
    receptive_fields.main()
    before, after = noted["receptive_fields_trained"]["fields"]
    assert (before["name"], after["name"]) == ("masks-K=3-0-1, untrained", "masks-K=3-0-1")
    assert before["pixels"] == after["pixels"] == [32, 32]
    assert before["images"] == after["images"] == 3  # the val part
    assert before["largest"] != after["largest"]
    assert (tmp_path / "field-trained.png").stat().st_size > 10_000
