import json
import sys
from pathlib import Path

import pytest
import receptive_fields
import scene_runs
import torch
from scene_runs import NETWORKS, STUDIES, convnext, equal_dim, ours, recipe_of, run_folder, table

from tests import scenes
from unireplknet import UniRepLKNet, reparameterize
from unireplknet.models.complexity import count_params


def test_the_networks_have_about_the_same_number_of_parameters() -> None:
    with torch.device("meta"):
        counts = [count_params(convnext(equal_dim()))]
        for kernel in (13, 3):
            settings = ours(kernel)
            assert settings.pop("name") == "unireplknet_a"
            counts.append(count_params(reparameterize(UniRepLKNet(num_classes=0, **settings))))
    assert counts[0] == pytest.approx(counts[1], rel=0.05)
    assert counts[0] == pytest.approx(counts[2], rel=0.15)


@pytest.mark.parametrize("task", STUDIES)
def test_networks_differ_in_the_backbone_alone(task: str, tmp_path: Path) -> None:
    models = []
    for network in NETWORKS:
        recipe = recipe_of(task, network, 1, 2, tmp_path)
        assert (recipe.trainer.seed, recipe.optim.epochs) == (1, 2)
        with torch.device("meta"):
            models.append(recipe.build([str(i) for i in range(8)]))
    heads = [sum(p.numel() for n, p in m.named_parameters() if ".model." not in n) for m in models]
    assert heads[0] == heads[1]
    assert heads[2] == pytest.approx(heads[0], rel=0.2)  # what takes the features has their width
    assert len({type(m) for m in models}) == 1


def test_what_is_noted_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(recipe: object, folder: Path, *cell: object) -> dict[str, object]:
        assert not folder.is_relative_to(tmp_path)
        assert folder.parent.is_dir()
        trained.append(cell)
        return {"score": 10.0 * len(trained), **dict(zip(("task", "network", "seed", "epochs"), cell, strict=True))}

    monkeypatch.setattr(scene_runs, "train", train)
    monkeypatch.setattr(scene_runs, "FILE", tmp_path / "scene_runs.json")
    monkeypatch.setattr(
        scene_runs, "write_result", lambda name, result: (tmp_path / f"{name}.json").write_text(json.dumps(result))
    )
    for words in (["--seeds", "0"], []):
        monkeypatch.setattr(sys, "argv", ["scene_runs.py", "--data", str(tmp_path), "--only", "boxes", *words])
        scene_runs.main()
    assert len(trained) == len(set(trained)) == 9
    rows = json.loads((tmp_path / "scene_runs.json").read_text(encoding="utf-8"))["rows"]
    assert "| boxes | box AP, % | 6 | 40.00 (10.00 to 70.00) |" in table(rows)


def test_a_run_that_is_kept_is_looked_into_and_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cell = scenes.tiny_recipe(scenes.write_scenes(tmp_path / "data"), epochs=1), ("masks", "K=3", 0, 1)
    with run_folder(cell, tmp_path / "runs") as folder:
        row = scene_runs.train(recipe, folder, *cell)
    assert folder == tmp_path / "runs" / "masks-K=3-0-1"
    monkeypatch.setattr(scene_runs, "fit", None)
    assert scene_runs.train(recipe, folder, *cell) == row

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
