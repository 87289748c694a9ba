"""Shared test settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from unireplknet.training.run import Run


# Triton decides at import whether it interprets kernels; the tests that need it run in a process of their own.
pytest_plugins = ["tests.interpreter"] if os.environ.get("TRITON_INTERPRET") == "1" else []


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["UNIREPLKNET_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on a small image tree; tests add to its folder but change nothing in it."""
    from tests.runs import image_recipe, write_tree
    from unireplknet.training.run import fit

    root = tmp_path_factory.mktemp("trained")
    return fit(image_recipe(write_tree(root / "data"), epochs=6), root / "run")
