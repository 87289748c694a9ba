"""Benchmarks are scripts, not a package: they import each other by name, so their folder has to be on the path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
