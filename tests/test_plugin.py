"""A package outside adds a modality, a data source, a task and a recipe, and uses them from the command line."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

PLUGIN = Path(__file__).parent / "plugin"

MAIN = """
import json, sys
from unireplknet.cli import main
for words in json.loads(sys.argv[1]):
    print("$", *words, flush=True)
    status = main(words)
    if status:
        sys.exit(status)
"""


def unireplknet(*commands: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run commands one after another in a process that finds the package as if it were installed."""
    path = os.pathsep.join([str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", MAIN, json.dumps(commands)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


BACKEND = """
import copy, torch, unireplknet
from unireplknet.ops import use_backend
model = unireplknet.create_model("test_unireplknet").double()
results = []
for name in ("reference", "shifts"):
    net, x = copy.deepcopy(model), torch.linspace(-1, 1, 2 * 3 * 64 * 64, dtype=torch.float64).reshape(2, 3, 64, 64)
    with use_backend(name):
        net(x).square().sum().backward()
    results.append([p.grad for p in net.parameters()])
from ripples import backend
assert backend.CALLS > 0
for a, b in zip(*results):
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
"""


def test_a_backend_of_a_package_outside_trains_the_network() -> None:
    path = os.pathsep.join([str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", BACKEND]
    child = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr


def write_ripples(folder: Path, count: int = 64) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    with (folder / "wavelengths.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "wavelength"))
        for i in range(count):
            wavelength = rng.uniform(1, 5)
            heights = np.sin(2 * np.pi * np.arange(16) / (3 * wavelength) + rng.uniform(0, 6)) * np.ones((16, 1))
            np.savetxt(folder / f"{i:02}.heights", heights)
            table.writerow((f"{i:02}.heights", wavelength))


def test_a_package_outside_is_used_like_this_one(tmp_path: Path) -> None:
    write_ripples(tmp_path / "data")
    done = unireplknet(
        ["train", "ripples", "--help"],
        ["train", "ripples", "--data", "data", "--dry-run"],
        ["train", "ripples", "--data", "data", "--out", "run"],
        ["evaluate", "run", "--split", "val"],
        ["predict", "run", "data/03.heights", "--digits", "4"],
        ["predict", "--digits", "1", "run", "data", "--format", "json"],
        ["export", "run"],
        ["evaluate", "run/model.onnx", "--data", "data"],
        ["predict", "run/model.onnx", "data/03.heights", "--digits", "4"],
        ["report", "run"],
        ["inspect", "field", "run", "--out", "field"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["modality"], config["task"], config["trainer"]["select"]) == ("ripple", "regression", "mae")
    assert (run / "quantities.txt").read_text() == "wavelength\n"
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [name for name in rows[0] if name.startswith("val/")] == [
        "val/mae",
        "val/loss",
        "val/mae_raw",
        "val/loss_raw",
    ]
    best = min(float(row["val/mae"]) for row in rows)
    assert f"val: MAE {best:.3f}" in done.stdout, "the lowest error chose the epoch"
    ours, theirs = (line for line in done.stdout.splitlines() if line.startswith("data/03.heights  "))
    assert float(ours.split()[1]) == pytest.approx(float(theirs.split()[1]), abs=1e-3)
    assert "val: MAE " in done.stdout.split("$ export")[1]
    # A task that cannot be imported is no obstacle to the others.
    assert "task 'broken' of ripples cannot be imported: No module named 'ripples.missing'" in done.stderr
    page = (run / "report.html").read_text()
    assert "regression, from ripple" in page
    assert ">Numbers<" in page
    assert json.loads((run / "evaluation-test.json").read_text())["samples"] == 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "run", "a.heights", "--top", "3"], "unrecognized arguments: --top 3"),
        (["train", "ripples", "--data", "data", "--trainer.select", "accuracy"], "set it to mae or loss or last"),
    ],
)
def test_options_of_other_tasks_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    write_ripples(tmp_path / "data", 8)
    prepare = (
        "from unireplknet.recipes import find_recipe; from pathlib import Path; Path('run').mkdir();"
        " find_recipe('ripples').save(Path('run/config.yaml'))"
    )
    path = os.pathsep.join([str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run([sys.executable, "-c", prepare], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, check=True)
    done = unireplknet(words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.splitlines()[-1].startswith("unireplknet: error: ")
