"""Without an extra, every command says in one line which one is missing; none ends in a stack trace."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from unireplknet.extras import EXTRAS

MAIN = """
import contextlib, io, json, sys, traceback
hidden, commands = sys.argv[1], json.loads(sys.argv[2])

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
from unireplknet.cli import main
results = []
for words in commands:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
            status = "trace"
    results.append([words, status, errors.getvalue()])
print(json.dumps(results))
"""

COMMANDS = [
    ["--help"],
    ["demo", "--epochs", "1", "--out", "demo"],
    ["train", "digits", "--dry-run"],
    ["train", "digits", "--optim.epochs", "1", "--out", "digits"],
    ["evaluate", "nowhere"],
    ["predict", "nowhere", "a.png"],
    ["export", "nowhere"],
    ["report", "nowhere"],
    ["bench", "test_unireplknet", "--protocol", "quick"],
    ["inspect", "field", "test_unireplknet", "--out", "field"],
    ["fetch", "nothing"],
    ["pack", "nowhere", "packed"],
    ["info"],
    ["doctor"],
]
MUCH_USED = ("lightning", "matplotlib")


@pytest.mark.parametrize(
    "module", [pytest.param(name, marks=[] if name in MUCH_USED else pytest.mark.slow) for name in sorted(EXTRAS)]
)
def test_a_hidden_module_gives_one_line(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", MAIN, module, json.dumps(COMMANDS)]
    child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    results = json.loads(child.stdout.splitlines()[-1])
    for words, status, errors in results:
        assert status in (0, 2), f"{words}: {errors}"
        if status == 2:
            assert errors.count("unireplknet: error: ") == 1, f"{words}: {errors}"
    if module in MUCH_USED:
        assert any(f"{EXTRAS[module]}]" in errors for _, _, errors in results), results


def test_every_extra_exists() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS.values()) <= set(project["optional-dependencies"])
