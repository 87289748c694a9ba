"""docs/errors.md quotes what the command line says: each message there is produced here, and the other way round."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.runs import COLORS, image_recipe, write_tree
from unireplknet.cli import main
from unireplknet.errors import Stopped, UserError
from unireplknet.recipes import RECIPES
from unireplknet.training import run as runs
from unireplknet.training.callbacks import REQUEUE
from unireplknet.training.recipe import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"

FLOWERS = dict(zip(COLORS, ("daisy", "rose", "tulip"), strict=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, flowers, and what train and evaluate leave of them."""
    folder = tmp_path_factory.mktemp("errors")
    write_tree(folder / "flowers", count=8)
    for colour, flower in FLOWERS.items():
        (folder / "flowers" / colour).rename(folder / "flowers" / flower)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(RECIPES, "folder", small_folder)
        assert main(TRAIN) == 0
    (folder / "runs" / "flowers").rename(folder / "finished")
    return folder


def small_folder() -> Recipe:
    """The recipe folder, which takes a second."""
    recipe = image_recipe(Path(), epochs=1)
    recipe.name, recipe.data.path = "folder", ""
    return recipe


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    monkeypatch.setitem(RECIPES, "folder", small_folder)
    place = Path(shutil.copytree(finished, tmp_path / "place"))
    monkeypatch.chdir(place)
    return place


TRAIN = ["train", "folder", "--data", "flowers", "--out", "runs/flowers"]


def trained(*_: object) -> None:
    Path("finished").rename("runs/flowers")


def unfinished(*_: object) -> None:
    """What a run leaves that was killed before its end."""
    trained()
    file = Path("runs/flowers/results.json")
    file.write_text(json.dumps({"data": json.loads(file.read_text())["data"]}))


def several_unreadable(*_: object) -> None:
    for file in Path("flowers/rose").iterdir():
        file.write_bytes(b"no picture")


def without_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "lightning"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)


def in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    unfinished()
    monkeypatch.setattr(runs, "PATIENCE", 0.1)
    lock = FileLock(Path("runs/flowers") / runs.LOCK)
    lock.acquire()
    monkeypatch.setattr(runs, "_held_by_the_test", lock, raising=False)


def one_picture_of_roses(*_: object) -> None:
    for file in sorted(Path("flowers/rose").iterdir())[1:]:
        file.unlink()


def another_class(*_: object) -> None:
    trained()
    Path("flowers/rose").rename("flowers/violet")


def fewer_pictures(*_: object) -> None:
    unfinished()
    Path("flowers/rose/00.png").unlink()


def no_epoch_yet(*_: object) -> None:
    trained()
    Path("runs/flowers/best.ckpt").unlink()


def overflowing(monkeypatch: pytest.MonkeyPatch) -> None:
    from unireplknet.tasks.classify.learn import ClassificationLearner

    forward = ClassificationLearner.forward

    def broken(self: ClassificationLearner, maps: torch.Tensor) -> torch.Tensor:
        return forward(self, maps) * (torch.inf if self.training else 1)

    monkeypatch.setattr(ClassificationLearner, "forward", broken)


def nothing(*_: object) -> None:
    pass


CASES: dict[str, tuple[Callable[..., None], list[str]]] = {
    "missing extra": (without_lightning, TRAIN),
    "unknown recipe": (nothing, ["train", "digit"]),
    "unknown flag": (nothing, [*TRAIN, "--optim.lrr", "1e-3"]),
    "impossible value": (nothing, [*TRAIN, "--optim.epochs", "0"]),
    "no path": (nothing, ["train", "mnist"]),
    "no folder": (nothing, ["train", "folder", "--data", "flowrs"]),
    "small class": (one_picture_of_roses, TRAIN),
    "finished run": (trained, TRAIN),
    "other settings": (unfinished, [*TRAIN, "--optim.lr", "1e-3"]),
    "other samples": (fewer_pictures, TRAIN),
    "in use": (in_use, TRAIN),
    "unreadable": (several_unreadable, [*TRAIN, "--data.max_unreadable", "2"]),
    "not a number": (overflowing, TRAIN),
    "no numbers in val": (nothing, [*TRAIN, "--optim.lr", "1e30", "--optim.warmup_epochs", "0"]),
    "no run": (nothing, ["evaluate", "runs/flower"]),
    "no epoch": (no_epoch_yet, ["evaluate", "runs/flowers"]),
    "other classes": (another_class, ["evaluate", "runs/flowers"]),
    "other widths": (
        trained,
        [*TRAIN[:-1], "runs/fine", "--model.weights", "runs/flowers", "--model.dims", "[8,8,16,32]"],
    ),
}


def quoted() -> list[str]:
    return re.findall(
        r"^```\n(unireplknet: error: .*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def produce(case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    prepare, words = CASES[case]
    prepare(monkeypatch)
    capsys.readouterr()
    assert main(words) == 2
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("unireplknet: error: "))


def matches(message: str, quotation: str) -> bool:
    """Whether a message is the one quoted; "..." there stands for what differs from machine to machine."""
    return re.fullmatch(".+".join(map(re.escape, quotation.split("..."))), message) is not None


@pytest.mark.parametrize("case", CASES)
def test_messages_are_quoted(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = produce(case, monkeypatch, capsys)
    assert [quotation for quotation in quoted() if matches(message, quotation)], message


def test_every_quotation_is_of_a_case() -> None:
    assert len(quoted()) == len(set(quoted())) == len(CASES)


def test_statuses_are_those_of_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def status(error: BaseException | None) -> int:
        def fit(*_: object) -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(runs, "fit", fit)
        monkeypatch.setattr("unireplknet.training.processes.is_first", lambda: False)
        return main(["train", "digits"])

    found = [status(None), status(UserError("")), status(Stopped("", REQUEUE)), status(KeyboardInterrupt())]
    rows = re.findall(r"^\| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(map(int, rows)) == sorted([*found, 1]) == [0, 1, 2, 75, 130]
    with pytest.raises(RuntimeError):  # for which Python's own status is 1
        status(RuntimeError())
