"""Runs the tests that need the Triton interpreter, in a process that has it switched on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
INTERPRETED = ("ops/triton", "ops/test_backends.py", "nn/test_fused.py")


def _run(*options: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *options,
        *(str(TESTS / path) for path in INTERPRETED),
    ]
    child = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr


def test_interpreted_kernels() -> None:
    _run()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_interpreted_kernels_on_the_whole_grid() -> None:
    _run("-m", "slow")
