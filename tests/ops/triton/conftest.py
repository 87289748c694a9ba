"""The kernels run interpreted on the CPU, or are compiled for absent cards; never both in one process.

Triton decides at import. ``test_interpreter.py`` runs the interpreted files in a child process.
"""

import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
collect_ignore = (
    ["test_interpreter.py", "test_init.py", "test_ahead_of_time.py"]
    if INTERPRETED
    else ["test_autograd.py", "test_cache.py", "test_kernels.py", "test_depthwise.py", "test_tuning.py"]
)

pytest.importorskip("triton")
