"""A run that was interrupted ends as one that was not, bit for bit."""

import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.killing import assert_same, fit_until, outcome, random_recipe
from tests.runs import image_recipe, write_tree
from unireplknet.cli import main
from unireplknet.data.shards.packing import pack
from unireplknet.errors import Stopped, UserError
from unireplknet.modalities.image import ImageInput
from unireplknet.tasks.classify.learn import ClassificationLearner
from unireplknet.training.checkpoint import DAMAGED, LAST, PREVIOUS, SECTION, find_state
from unireplknet.training.run import Run, fit, last_folder, new_folder

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of this kind are POSIX")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("resume") / "data")


@pytest.fixture(scope="module")
def whole(data: Path) -> Run:
    """Never interrupted."""
    run = fit(random_recipe(data), data.parent / "whole")
    assert run.results["best_epoch"] <= 2, "to be remembered by a run that is interrupted in the third epoch"
    return run


@pytest.mark.parametrize(
    ("moment", "minutes", "workers"),
    [
        ("step", 0.0, 0),
        ("step", 0.0, 1),
        ("step", 60.0, 0),
        ("writing", 0.0, 0),
        ("validating", 0.0, 0),
        ("validated", 0.0, 0),
        ("saved", 0.0, 0),
        pytest.param("saved", 0.0, 1, marks=pytest.mark.slow),
        ("finishing", 60.0, 0),
    ],
)
def test_killed_and_continued_is_never_interrupted(
    moment: str, minutes: float, workers: int, data: Path, whole: Run, tmp_path: Path
) -> None:
    recipe = random_recipe(data, workers)
    recipe.trainer.save_minutes = minutes
    assert fit_until(recipe, tmp_path / "run", moment, epoch=2, batch=1) == (-9 if sys.platform != "win32" else 15)
    run = Run(tmp_path / "run")
    assert not run.finished
    fit(recipe, run.path)
    assert_same(outcome(run), outcome(whole))


@pytest.mark.parametrize("workers", [0, 1])
def test_shards_go_on_as_files_do(workers: int, data: Path, tmp_path: Path) -> None:
    pack(data, tmp_path / "shards", ImageInput.extensions, samples=9)
    recipe = random_recipe(tmp_path / "shards", workers)
    recipe.data.source, recipe.data.window = "shards", 2
    assert fit_until(recipe, tmp_path / "run", "step", epoch=2, batch=1) != 0
    recipe.data.workers = 0
    assert_same(outcome(fit(recipe, tmp_path / "run")), outcome(fit(recipe, tmp_path / "whole")))


def test_killed_again_and_again(data: Path, whole: Run, tmp_path: Path) -> None:
    recipe, out = random_recipe(data), tmp_path / "run"
    for epoch, batch in ((0, 0), (0, 2), (1, 0), (3, 1)):
        assert fit_until(recipe, out, "step", epoch, batch) != 0
    assert fit_until(recipe, out, "") == 0
    assert_same(outcome(Run(out)), outcome(whole))


def test_no_state_is_saved_while_gradients_accumulate(data: Path, tmp_path: Path) -> None:
    recipe = random_recipe(data)
    recipe.optim.accumulate = 2
    assert fit_until(recipe, tmp_path / "run", "step", epoch=1, batch=3) != 0
    state = find_state(tmp_path / "run", recipe.settings())
    assert state is not None
    assert (state.epoch, state.batch) == (1, 2)
    assert_same(outcome(fit(recipe, tmp_path / "run")), outcome(fit(recipe, tmp_path / "whole")))


def interrupt(recipe: Any, out: Path, monkeypatch: pytest.MonkeyPatch, what: int, epoch: int, batch: int) -> None:
    """Train in this process and send it a signal in the middle of a step."""
    step = ClassificationLearner.training_step

    def signalled(self: ClassificationLearner, maps: Any, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx) == (epoch, batch):
            signal.raise_signal(what)
        return step(self, maps, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationLearner, "training_step", signalled)
        fit(recipe, out)


@posix
def test_sigterm_saves_and_asks_to_be_called_again(
    data: Path, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = random_recipe(data)
    recipe.trainer.save_minutes = 60
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=r"stopped by SIGTERM after step 8; .*last.ckpt") as stop:
        interrupt(recipe, tmp_path / "run", monkeypatch, signal.SIGTERM, 2, 1)
    assert stop.value.status == 75
    assert signal.getsignal(signal.SIGTERM) is handler
    state = find_state(tmp_path / "run", recipe.settings())
    assert state is not None
    assert (state.epoch, state.batch) == (2, 2)
    fit(recipe, tmp_path / "run")
    assert_same(outcome(Run(tmp_path / "run")), outcome(whole))


@posix
def test_a_signal_in_the_last_step_of_an_epoch(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stopped, match="stopped by SIGUSR1 after step 6"):
        interrupt(random_recipe(data), tmp_path / "run", monkeypatch, signal.SIGUSR1, 1, 2)
    state = find_state(tmp_path / "run", random_recipe(data).settings())
    assert state is not None
    assert (state.epoch, state.batch) == (2, 0)


@posix
@pytest.mark.parametrize("what", ["SIGTERM", "KeyboardInterrupt", "OSError"])
def test_the_end_in_the_middle_of_validation(
    what: str, data: Path, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the weights and their average have changed places no state may be saved."""
    validation_step = ClassificationLearner.validation_step

    def end(self: ClassificationLearner, batch: Any, batch_idx: int) -> None:
        if (self.current_epoch, batch_idx) == (2, 1):
            if what == "SIGTERM":
                signal.raise_signal(signal.SIGTERM)
            else:
                raise {"KeyboardInterrupt": KeyboardInterrupt, "OSError": OSError}[what]
        validation_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationLearner, "validation_step", end)
        with pytest.raises((Stopped, KeyboardInterrupt, OSError)):
            fit(random_recipe(data), tmp_path / "run")
    state = find_state(tmp_path / "run", random_recipe(data).settings())
    assert state is not None
    assert (state.epoch, state.batch) == ((3, 0) if what == "SIGTERM" else (2, 2))
    fit(random_recipe(data), tmp_path / "run")
    assert_same(outcome(Run(tmp_path / "run")), outcome(whole))


@posix
def test_the_command_exits_with_75(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random_recipe(data).save(tmp_path / "r.yaml")
    monkeypatch.setattr(ClassificationLearner, "on_train_start", lambda self: signal.raise_signal(signal.SIGTERM))
    assert main(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 75
    assert "stopped by SIGTERM after step 1" in capsys.readouterr().err


@pytest.fixture
def interrupted(data: Path, tmp_path: Path) -> Path:
    assert fit_until(random_recipe(data), tmp_path / "run", "step", 2, 1) != 0
    return tmp_path / "run"


def test_a_damaged_state_is_replaced_by_the_one_before(
    data: Path, whole: Run, interrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = (interrupted / LAST).read_bytes()
    (interrupted / LAST).write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING, "unireplknet"):
        fit(random_recipe(data), interrupted)
    assert "last.ckpt cannot be read" in caplog.text
    assert (interrupted / DAMAGED).exists()
    assert_same(outcome(Run(interrupted)), outcome(whole))


def test_bad_states_are_noticed(data: Path, interrupted: Path) -> None:
    settings = random_recipe(data).settings()
    good = (interrupted / PREVIOUS).read_bytes()
    last = (interrupted / LAST).read_bytes()
    middle = len(last) // 2
    flipped = last[:middle] + bytes([last[middle] ^ 1]) + last[middle + 1 :]
    for content in (flipped, last[:-100], b"", b"not a checkpoint", (interrupted / "config.yaml").read_bytes()):
        (interrupted / LAST).write_bytes(content)
        (interrupted / PREVIOUS).write_bytes(good)
        state = find_state(interrupted, settings)
        assert state is not None
        assert state.path.name == PREVIOUS
        assert (interrupted / DAMAGED).read_bytes() == content
    torch.save({"state_dict": {}}, interrupted / PREVIOUS)
    with pytest.raises(UserError, match=r"previous.ckpt is not a checkpoint of unireplknet train; start anew"):
        find_state(interrupted, settings)
    (interrupted / PREVIOUS).write_bytes(good)
    with pytest.raises(UserError, match=r"previous.ckpt is of a run with other settings: optim.lr is 0.01 there"):
        find_state(interrupted, settings | {"optim.lr": 1.0})
    newer = find_state(interrupted, settings | {"optim.setting_of_a_later_version": 1.0})
    assert newer is not None
    assert newer.path.name == PREVIOUS


class Evil:
    """Pickles as a call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code was run",)


def test_no_code_of_a_state_is_run(data: Path, interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({SECTION: Evil()}, interrupted / LAST)
    state = find_state(interrupted, random_recipe(data).settings())
    assert state is not None
    assert state.path.name == PREVIOUS
    assert "code was run" not in capsys.readouterr().out


def test_other_settings_are_refused_by_name(data: Path, interrupted: Path) -> None:
    before = {p: p.read_bytes() for p in interrupted.rglob("*") if p.is_file()}
    other = random_recipe(data).override(["--optim.lr", "0.5", "--trainer.seed", "3"])
    message = r"optim.lr is 0.01 there and 0.5 here, trainer.seed is 0 there and 3 here; choose another --out"
    with pytest.raises(UserError, match=message):
        fit(other, interrupted)
    assert before == {p: p.read_bytes() for p in interrupted.rglob("*") if p.is_file()}


def test_other_samples_are_refused(tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data")
    assert fit_until(random_recipe(data), tmp_path / "run", "step", 1, 1) != 0
    (data / "red" / "new.png").write_bytes((data / "red" / "00.png").read_bytes())
    with pytest.raises(UserError, match="was started with other samples"):
        fit(random_recipe(data), tmp_path / "run")


def test_two_processes_do_not_train_in_one_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    monkeypatch.setattr("unireplknet.training.run.PATIENCE", 0.1)
    with FileLock(new_folder("", tmp_path / "run") / ".lock"), pytest.raises(UserError, match="another process"):
        fit(random_recipe(data), tmp_path / "run")


def test_resume_takes_the_last_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    random_recipe(data).save(tmp_path / "r.yaml")
    words = ["train", "r.yaml", "--resume"]
    assert main(words) == 2
    assert "there is no run of tiny in " in capsys.readouterr().err
    for number in (2, 9, 10):
        (tmp_path / f"runs/tiny-{number}").mkdir(parents=True)
    assert last_folder("tiny") == Path("runs/tiny-10")
    assert fit_until(random_recipe(data), Path("runs/tiny-10").resolve(), "step", 3, 1) != 0
    assert main(words) == 0
    assert Run.open("runs/tiny-10").finished
    capsys.readouterr()
    assert main(words) == 2
    assert "is a finished run; a run is never overwritten" in capsys.readouterr().err
    assert main([*words, "--out", "x"]) == 2
    assert "--resume takes the last run under runs" in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_the_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = ClassificationLearner.forward

    def broken(self: ClassificationLearner, maps: torch.Tensor) -> torch.Tensor:
        return forward(self, maps) * (torch.inf if self.training and self.global_step == 4 else 1)

    monkeypatch.setattr(ClassificationLearner, "forward", broken)
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step 4 .*nonfinite.json names the batch"):
        fit(random_recipe(data), tmp_path / "run")
    report = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert report["step"] == 4
    assert report["lr"] > 0
    assert len(report["samples"]) == 8
    assert all(Path(name).is_file() for name in report["samples"])
    assert (tmp_path / "run" / LAST).exists()


def test_too_many_unreadable_samples_stop_the_run(tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data", count=8)
    for i in range(4):
        (data / "blue" / f"0{i}.png").write_bytes(b"broken")
    recipe = image_recipe(data, epochs=2)
    recipe.data.max_unreadable = 2
    with pytest.raises(UserError, match=r"more than data.max_unreadable = 2 samples are unreadable; the last: .*png"):
        fit(recipe, tmp_path / "run")


@posix
def test_a_full_disk_keeps_the_last_good_state(
    data: Path, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    recipe, out = random_recipe(data), tmp_path / "run"
    limits, step = resource.getrlimit(resource.RLIMIT_FSIZE), ClassificationLearner.training_step

    def no_room_from_step_5(self: ClassificationLearner, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationLearner, "training_step", no_room_from_step_5)
        try:
            with pytest.raises(UserError, match=r"run cannot be written: .*; the last good state is kept, make room"):
                fit(recipe, out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(out.glob("*.tmp"))
    assert torch.load(out / LAST, weights_only=True)["global_step"] == 5
    fit(recipe, out)
    assert_same(outcome(Run(out)), outcome(whole))
