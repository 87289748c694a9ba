"""The documentation runs: Python from top to bottom, in one namespace a page; of commands, all that can be parsed.

Of a command of ours everything happens but its work: the recipe is found, each flag is known and has a possible value.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import unireplknet
from unireplknet.cli import COMMANDS, main
from unireplknet.models.weights import to_released
from unireplknet.recipes import RECIPES, image
from unireplknet.registry import TASKS
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run

# What README puts before the path of a file of this repository.
REPOSITORY = "https://(github.com|raw.githubusercontent.com)/unireplknet/unireplknet/(blob/)?main/"
ROOT = Path(__file__).parents[1]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

TREE = "a tree of files"

NOT_COMMANDS = {
    ("first-model.md", "flowers/"): TREE,
    ("points.md", "shapes/"): TREE,
    ("audio.md", "path,labels"): "a table",
    ("series.md", "time,station,temp,dewp,humid,wind_dir,wind_speed,pressure"): "a table",
    ("imagenet.md", "plan of in1k_a; nothing is trained or written"): "what a command printed",
    (
        "segmentation.md",
        "PATH/classes.txt        a class name a line, in the order of the numbers in the masks",
    ): "a tree",
    ("audio.md", "file -> mono, one rate -> Kaldi's log-mel energies -> 1 x T x F"): "a formula",
}
"""Blocks that are no commands, by page and first line, and what they are instead."""

NOT_CHECKED = {
    "git clone": "needs the network",
    "cd unireplknet": "the clone",
    "npm pack": "needs the network",
    "tar xf": "what npm packed",
    "#SBATCH": "a comment to SLURM",
    "[ $? -eq 75 ]": "a test of the shell",
    "scontrol requeue": "needs SLURM",
}
"""Beginnings of commands that nothing here can check, and why."""

MESSAGE = "unireplknet: error: "  # those are tests/test_errors_page.py's


ALONE = ("demo", "doctor", "info")
"""Commands that want nothing."""


class Reached(Exception):
    """A command has been understood and would begin to work."""


WORK = (
    "unireplknet.demo.run_demo",
    "unireplknet.deploy.contest.run_contest",
    "unireplknet.doctor.examine",
    "unireplknet_examples.install.DataSet.install",
    "unireplknet.inspection.find_subject",
    "unireplknet.data.shards.packing.pack",
    "unireplknet.models.complexity.complexity",
    "unireplknet.training.plan.make_plan",
    "unireplknet.report.write_report",
    "unireplknet.deploy.exported.export_run",
    "unireplknet.training.run.fit",
    *(f"{task.__module__}.{task.__name__}.{command}" for task in TASKS.values() for command in ("evaluate", "predict")),
)
"""Where commands begin to work."""


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and content of the blocks of a page, fenced or indented; the indented ones have no language."""
    text = page.read_text(encoding="utf-8")
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    for match in fence.finditer(text):
        yield match[1], match[2]
    for match in re.finditer(r"(?<=\n\n)((?: {4}.*\n)+)", fence.sub("", text)):
        yield "", re.sub(r"^ {4}", "", match[1], flags=re.MULTILINE)


def commands(page: Path) -> Iterator[str]:
    """The commands of a page: in blocks, a line each, and in running text."""
    for language, block in blocks(page):
        first = block.partition("\n")[0].strip()
        if language in ("", "bash", "sh") and not first.startswith(MESSAGE) and (page.name, first) not in NOT_COMMANDS:
            yield from filter(str.strip, block.replace("\\\n", " ").splitlines())
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for match in re.finditer(rf"`((?:unireplknet|python|{'|'.join(COMMANDS)}) [^`]+)`", text):
        words = match[1].split()
        words = words if words[0] in ("unireplknet", "python") else ["unireplknet", *words]
        if len(words) > 2 or words[-1] in ALONE:  # others are but the name of a command
            yield " ".join(words)


def parts(line: str) -> Iterator[list[str]]:
    """The words of the commands that a line joins by &&; those of ours without what starts them."""
    words = line.split() if line.startswith(tuple(NOT_CHECKED)) else shlex.split(line, comments=True)
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        part, words = words[:end], words[end + 1 :]
        yield part[part.index("unireplknet") :] if "unireplknet" in part and part[0] in ("srun", "torchrun") else part


ALL = [(page, line) for page in PAGES for line in dict.fromkeys(commands(page))]


@pytest.mark.parametrize(("page", "line"), ALL, ids=[f"{page.name}: {line}" for page, line in ALL])
def test_commands_are_understood(
    page: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for work in WORK:
        monkeypatch.setattr(work, _reach)
    monkeypatch.setattr("unireplknet.training.run.Run.open", _open)
    for words in parts(line):
        if " ".join(words).startswith(tuple(NOT_CHECKED)):
            continue
        check = {"unireplknet": check_ours, "python": check_script, "make": check_make, "pip": check_pip}[words[0]]
        check(words[1:])


def _reach(*_: object, **__: object) -> None:
    raise Reached


def _open(path: str) -> Run:
    """The run where the recipe says which it is, since its task has options; elsewhere nothing is known of it."""
    if not (Path(path) / "config.yaml").exists():
        raise Reached
    return Run(Path(path))


def check_ours(words: list[str]) -> None:
    """A command of this package comes as far as its work, or prints help."""
    example = {"NAME": "mnist" if words[0] == "fetch" else "in1k_t", "RECIPE": "digits"}
    words = [example.get(word, word) for word in words]
    for word in [*words, f"runs/{words[1]}-1" if "--resume" in words else ""]:
        if match := re.match(r"runs/(\w+)-\d+", word):
            Path(match[0]).mkdir(parents=True, exist_ok=True)
            RECIPES[match[1]]().save(Path(match[0]) / "config.yaml")
    with suppress(Reached, SystemExit):  # argparse exits after --help; its mistakes are main's own
        assert main(words) == 0


def check_script(words: list[str]) -> None:
    """A script is there and speaks of each of the flags; it is not run."""
    script = (ROOT / words[0]).read_text(encoding="utf-8")
    assert [word for word in words if word.startswith("--") and f'"{word}"' not in script] == []


def check_make(words: list[str]) -> None:
    """The Makefile has the targets."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words)


def check_pip(words: list[str]) -> None:
    """The extras are those of the package, from an index or the repository; or PyTorch comes from its own index."""
    if words[1:3] == ["torch", "torchvision"]:
        assert words[3:5] == ["--index-url", "https://download.pytorch.org/whl/cpu"]
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    what, _, address = words[1].partition(" @ git+")
    assert address in ("", project["urls"]["Homepage"])
    name, _, extras = what.rstrip("]").partition("[")
    assert (words[0], name) == ("install", "unireplknet")
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    "line",
    [
        "unireplknet train digits --optim.lrr 3",
        "unireplknet train digits --optim.lr fast",
        "unireplknet train digit",
        "unireplknet evaluate runs/folder-1 --splits val",
        "unireplknet evaluate runs/folder-1 --sliding",
        "unireplknet predict runs/folder-1 a.png --least 0.3",
        "unireplknet inspekt field runs/folder-1",
        "unireplknet inspect fields runs/folder-1",
        "python benchmarks/audio_runs.py --no-such-flag",
        "make coffee",
        'pip install "unireplknet[trane]"',
        "pip install unireplnet",
    ],
)
def test_mistakes_in_commands_would_be_noticed(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssertionError):
        test_commands_are_understood(ROOT, line, tmp_path, monkeypatch, capsys)


def test_what_is_not_checked_is_there() -> None:
    """Otherwise the lists grow old."""
    firsts = {(page.name, block.partition("\n")[0].strip()) for page in PAGES for _, block in blocks(page)}
    assert set(NOT_COMMANDS) <= firsts
    lines = [" ".join(words) for _, line in ALL for words in parts(line)]
    assert [start for start in NOT_CHECKED if not any(line.startswith(start) for line in lines)] == []
    assert {language for page in PAGES for language, _ in blocks(page)} <= {"", "bash", "sh", "python", "text"}


def test_every_command_is_in_the_documentation() -> None:
    shown = {words[1] for _, line in ALL for words in parts(line) if words[0] == "unireplknet"}
    assert set(COMMANDS) <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_documentation_lead_somewhere(page: Path) -> None:
    text, home = page.read_text(encoding="utf-8"), page.parent
    if page.name == "README.md":  # shown on PyPI too, where relative links lead nowhere
        assert not re.findall(r"\]\((?!https?:)[^)\s]+\)", text)
        text, home = re.sub(REPOSITORY, "", text), ROOT
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        found = home / file if file else page
        assert found.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads], target


def small_digits() -> Recipe:
    """The recipe in a second."""
    recipe = image.digits()
    recipe.model = replace(recipe.model, dims=(8, 8, 16, 16))
    recipe.optim.epochs, recipe.optim.batch_size, recipe.trainer.progress = 1, 256, False
    return recipe


def released(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the Hub would give, and a file of somebody's."""
    torch.save(to_released(unireplknet.create_model("unireplknet_t")), folder / "my_finetune.pth")
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *_, **__: str(folder / "my_finetune.pth"))


def a_mesh(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trimesh

    (folder / "shapes" / "bolt").mkdir(parents=True)
    trimesh.creation.box().export(folder / "shapes" / "bolt" / "1.stl")


PREPARED: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {"README.md": released, "points.md": a_mesh}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=lambda page: page.name
)
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES, "digits", small_digits)
    PREPARED.get(page.name, lambda *_: None)(tmp_path, monkeypatch)
    namespace: dict[str, object] = {}
    for language, snippet in blocks(page):
        if language == "python":
            exec(compile(snippet, str(page), "exec"), namespace)
    if page.name == "points.md":
        assert np.load(tmp_path / "shapes" / "bolt" / "1.npy").shape == (4096, 3)
