import csv
import logging
import platform
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import unireplknet
from tests.runs import COLORS, image_recipe, write_tree
from unireplknet.errors import UserError
from unireplknet.tasks.classify.learn import ClassificationLearner
from unireplknet.tasks.classify.score import score
from unireplknet.training.loader import build_loader
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run, fit, new_folder


def rows(run: Run) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder_explains_itself(trained: Run) -> None:
    names = {p.name for p in trained.path.iterdir()}
    made = {"config.yaml", "classes.txt", "metrics.csv", "curves.png", "tensorboard", "results.json", "README.md"}
    made |= {"best.ckpt", "last.ckpt", "previous.ckpt", "model.safetensors"}
    assert made <= names
    assert trained.classes == tuple(COLORS)
    readme = (trained.path / "README.md").read_text()
    assert all(name in readme for name in made - {"README.md"})


def test_config_is_the_recipe(trained: Run) -> None:
    data = Path(trained.recipe.data.path)
    assert trained.recipe == image_recipe(data, epochs=6)


def test_best_epoch_is_the_one_with_the_lowest_val_loss(trained: Run) -> None:
    losses = [float(row["val/loss"]) for row in rows(trained)]
    assert len(losses) == 6
    assert trained.results["best_epoch"] == 1 + losses.index(min(losses))
    assert [row["epoch"] for row in rows(trained)] == list("123456")


def test_best_checkpoint_holds_the_weights_that_were_validated(trained: Run) -> None:
    """With a running average of the weights: not the ones that were being trained."""
    scores = score(trained.load_model(), build_loader(trained.recipe, trained.load_data().splits["val"]))
    row = rows(trained)[trained.results["best_epoch"] - 1]
    assert F.cross_entropy(scores.logits, scores.labels).item() == pytest.approx(float(row["val/loss"]), rel=1e-4)
    accuracy = (scores.logits.argmax(1) == scores.labels).float().mean().item()
    assert accuracy == pytest.approx(float(row["val/accuracy"]), abs=1e-5)


def test_it_has_learnt_the_colours(trained: Run) -> None:
    scores = score(trained.load_model(), build_loader(trained.recipe, trained.load_data().splits["test"]))
    assert (scores.logits.argmax(1) == scores.labels).float().mean() > 0.9


def test_safetensors_hold_the_best_weights(trained: Run) -> None:
    model = replace(trained.recipe.model).build(3, trained.classes).eval()
    unireplknet.load_weights(model, trained.path)
    maps = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(maps), trained.load_model()(maps))


def test_last_checkpoint_differs_from_the_average(trained: Run) -> None:
    state = torch.load(trained.path / "last.ckpt", weights_only=True)
    assert state["epoch"] == 5
    assert any(not torch.equal(v, state["current_model_state"][k]) for k, v in state["state_dict"].items())


def test_validation_does_not_round_the_weights(tmp_path: Path) -> None:
    """The weights lie in the average's place meanwhile, which has to have room for their digits."""
    recipe = image_recipe(write_tree(tmp_path / "data", count=8), epochs=1)
    recipe.trainer.precision = "64-true"
    fit(recipe, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    for name in ("state_dict", "current_model_state"):
        weight = state[name]["model.head.fc.weight"]
        assert weight.dtype == torch.float64
        assert not torch.equal(weight, weight.float().double())


def test_the_unreadable_file_is_named_once_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = image_recipe(write_tree(tmp_path / "data", count=8), epochs=4)
    recipe.data.split_seed = next(s for s in range(99) if broken_is_in_train(recipe, s))
    with caplog.at_level(logging.WARNING, "unireplknet"):
        run = fit(recipe, tmp_path / "run")
    warnings = [r.getMessage() for r in caplog.records if "unreadable" in r.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("skipped unreadable sample 1: ")
    assert "broken.png" in warnings[0]
    assert len(run.results["unreadable"]) == 1


def broken_is_in_train(recipe: Recipe, seed: int) -> bool:
    recipe.data.split_seed = seed
    return any(p.name == "broken.png" for p in recipe.data.load(recipe.input).splits["train"].items)


def test_same_seed_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    recipe = image_recipe(write_tree(tmp_path / "data", count=8), epochs=1)

    def weights(name: str, seed: int) -> list[torch.Tensor]:
        recipe.trainer.seed = seed
        return list(fit(recipe, tmp_path / name).load_model().parameters())

    first, again, other = weights("a", 3), weights("b", 3), weights("c", 4)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(first, other, strict=True))


def test_a_run_is_never_overwritten(trained: Run) -> None:
    before = {p: p.stat().st_mtime_ns for p in trained.path.rglob("*")}
    with pytest.raises(UserError, match="is a finished run; a run is never overwritten"):
        fit(trained.recipe, trained.path)
    assert before == {p: p.stat().st_mtime_ns for p in trained.path.rglob("*")}


def test_runs_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = image_recipe(tmp_path)
    paths = [new_folder(recipe.name) for _ in range(3)]
    assert [p.as_posix() for p in paths] == ["runs/tiny-1", "runs/tiny-2", "runs/tiny-3"]


def test_a_mistake_leaves_no_folder_behind(tmp_path: Path) -> None:
    recipe = image_recipe(write_tree(tmp_path / "data", count=8))
    wrong_model = replace(recipe, model=replace(recipe.model, num_classes=7))
    with pytest.raises(UserError, match=r"model.num_classes is 7, the data have 3 classes"):
        fit(wrong_model, tmp_path / "run")
    wrong_device = replace(recipe, trainer=replace(recipe.trainer, accelerator="mps" if on_linux() else "gpu"))
    with pytest.raises(UserError, match="trainer: ") as error:
        fit(wrong_device, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def on_linux() -> bool:
    return platform.system() == "Linux"


def test_stopping_keeps_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = image_recipe(write_tree(tmp_path / "data"), epochs=5)
    step = ClassificationLearner.training_step

    def stop_in_the_third_epoch(self: ClassificationLearner, batch: object, batch_idx: int) -> object:
        if self.current_epoch == 2 and batch_idx == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(ClassificationLearner, "training_step", stop_in_the_third_epoch)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"last\.ckpt"):
        fit(recipe, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is handler
    run = Run.open(tmp_path / "run")
    assert len(rows(run)) == 2
    assert torch.load(run.path / "last.ckpt", weights_only=True)["global_step"] == 2 * 3 + 2
    run.load_model("last")
    run.load_model("best")
    assert (run.path / "curves.png").stat().st_size > 0


def test_folders_that_are_no_runs_are_named(tmp_path: Path, trained: Run) -> None:
    with pytest.raises(UserError, match=r"is not a run folder: .*config.yaml is missing"):
        Run.open(tmp_path)
    run = Run.create(new_folder("", tmp_path / "run"), trained.recipe, trained.classes)
    with pytest.raises(UserError, match=r"best.ckpt is missing: did the run reach the end of its first epoch"):
        run.load_model()
    whole = (trained.path / "best.ckpt").read_bytes()
    (run.path / "best.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"best.ckpt cannot be read: ") as error:
        run.load_model()
    assert "\n" not in str(error.value)


class Evil:
    """Pickles as a call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code was run",)


def test_a_checkpoint_with_code_is_refused(tmp_path: Path, trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.create(new_folder("", tmp_path / "run"), trained.recipe, trained.classes)
    torch.save({"state_dict": {}, "more": Evil()}, run.path / "best.ckpt")
    with pytest.raises(UserError, match=r"best.ckpt cannot be read"):
        run.load_model()
    assert "code was run" not in capsys.readouterr().out


def test_changed_data_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_tree(tmp_path / "data", count=8)
    run = fit(image_recipe(data, epochs=1), tmp_path / "run")
    caplog.clear()
    run.load_data()
    assert not caplog.records
    (data / "red" / "new.png").write_bytes((data / "red" / "00.png").read_bytes())
    run.load_data()
    assert "the test split is not the one that" in caplog.text
    (data / "red").rename(data / "crimson")
    with pytest.raises(UserError, match="other classes"):
        run.load_data()


def test_the_last_epoch_is_taken_where_the_val_split_cannot_tell(tmp_path: Path) -> None:
    recipe = image_recipe(write_tree(tmp_path / "data", count=8), epochs=3)
    recipe.trainer.select = "last"
    recipe.optim.lr = 10.0  # so that no later epoch does better
    run = fit(recipe, tmp_path / "run")
    losses = [float(row["val/loss"]) for row in run.rows()]
    assert min(losses) != losses[-1], "the best epoch is another one"
    assert run.results["best_epoch"] == 3
