"""The script for a card runs here too, small and interpreted, so that it cannot fail there for a silly reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_the_tiny_run_ends_with_every_part(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--tiny", "--out", str(out)]
    child = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr
    result = json.loads(out.read_text())
    assert {"compile", "correct", "networks", "operators"} <= set(result), sorted(result)
    assert not {"failed", "left out"} & set(result), result
