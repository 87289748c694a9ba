"""What a card would launch and move: counted as by hand, and not more than the result file says."""

import json

import pytest
import torch
import torch.nn.functional as F
from _common import RESULTS
from gpu_cost import NAME, CostCounter, measure

pytest.importorskip("triton")
KNOWN = json.loads((RESULTS / f"{NAME}.json").read_text())["figures"]


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, float]]:
    return measure()


@pytest.mark.parametrize("key", KNOWN)
@pytest.mark.parametrize("unit", ["kernels", "gb"])
def test_no_figure_grows_by_more_than_a_twentieth(key: str, unit: str, figures: dict[str, dict[str, float]]) -> None:
    assert figures[key][unit] <= 1.05 * KNOWN[key][unit]


@pytest.mark.parametrize(
    ("key", "kernels", "gb"), [("t_step", 1500, 75), ("a_forward", 170, 5.5), ("t_forward", 350, 19)]
)
def test_targets(key: str, kernels: int, gb: float) -> None:
    assert KNOWN[key]["kernels"] <= kernels
    assert KNOWN[key]["gb"] <= gb


def test_a_layer_is_counted_as_by_hand() -> None:
    """A product, an addition in place and a view: 2 launches; each operand once."""
    x, weight = torch.empty(32, 64, device="meta"), torch.empty(16, 64, device="meta")
    counter = CostCounter()
    with counter:
        F.linear(x, weight).add_(1.0).view(-1)
    assert counter.figures["kernels"] == 2
    product = 4 * (32 * 64 + 16 * 64 + 32 * 16)
    # `add_` reads and writes its operand, which comes back as the result.
    assert counter.bytes.total() == product + 2 * 4 * 32 * 16
