"""Random numbers as functions of what they are for, so that nothing depends on what was drawn before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_from(*key: int) -> None:
    """Seed torch (on every device), numpy and Python: libraries draw from all three.

    Args:
        key: Non-negative numbers that say what the random numbers are for.
    """
    seed = _mix(key)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


@contextmanager
def random_state(*key: int) -> Iterator[None]:
    """Seed the CPU's generators as :func:`seed_from` does, and put their states back afterwards.

    Args:
        key: Non-negative numbers that say what the random numbers are for.
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        seed = _mix(key)
        # torch.manual_seed would seed every accelerator too, a hundred times slower.
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def _mix(key: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])
