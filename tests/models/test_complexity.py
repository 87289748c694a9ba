"""Parameters and MACs against every figure that the paper prints."""

from decimal import ROUND_HALF_UP, Decimal

import pytest

from unireplknet.models.complexity import complexity
from unireplknet.models.published import ABLATION_ROWS, VARIANT_ROWS, Row

# True counts of merged models in millions, computed independently of this package.
TRUE_PARAMS = {
    "unireplknet_a": "4.44",
    "unireplknet_f": "6.24",
    "unireplknet_p": "10.74",
    "unireplknet_n": "18.32",
    "unireplknet_t": "31.04",
    "unireplknet_s": "55.65",
    "unireplknet_b": "98.008",
    "unireplknet_l": "218.455",
    "unireplknet_xl": "386.529",
    "unireplknet_h": "1349.9",
    "T3a A: bottleneck": "32.962",
    "T3a C: two depthwise 3x3": "31.452",
    "T3c 3-3-13-13": "32.853",
    "T3c 3-13-13-3": "32.577",
    "T3d 27 LarK": "56.752",
    "T3d 14 LarK + 13 SmaK": "55.953",
    "T3d 9 LarK + 18 without 3x3": "55.577",
}
TRAINING_PARAMS = {
    "unireplknet_s": "56.46",
    "unireplknet_b": "99.09",
    "unireplknet_l": "220.08",
    "unireplknet_xl": "388.69",
}
# Misprints: what the row computes to.
MACS = {"T3a B: two 1x1": "5.177", "T3d 9 LarK + 18 SmaK": "9.094"}


def rounded(value: float, like: str) -> Decimal:
    """``value`` with as many digits after the point as ``like`` is written with."""
    digits = len(like.partition(".")[2])
    return Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)


def ids(row: Row) -> str:
    return f"{row.label} {row.size}"


@pytest.mark.parametrize("row", [*VARIANT_ROWS, *ABLATION_ROWS], ids=ids)
def test_figures(row: Row) -> None:
    cost = complexity(row)
    if row.params is not None:
        assert rounded(cost.published_params / 1e6, row.params) == Decimal(row.params)
    if row.macs is not None:
        assert rounded(cost.macs / 1e9, MACS.get(row.label, row.macs)) == Decimal(MACS.get(row.label, row.macs))
    if row.label in TRUE_PARAMS:
        assert rounded(cost.params / 1e6, TRUE_PARAMS[row.label]) == Decimal(TRUE_PARAMS[row.label])
    if row.label in TRAINING_PARAMS:
        assert rounded(cost.training_params / 1e6, "0.00") == Decimal(TRAINING_PARAMS[row.label])
    assert cost.published_params < cost.params < cost.training_params


def test_h_is_1_4_billion_with_the_22k_head_only() -> None:
    # The journal prints "1.4B" and no class count: 1,000 classes give 1.35B, the 21,841 of ImageNet-22K 1.43B.
    row = next(row for row in VARIANT_ROWS if row.label == "unireplknet_h")
    assert rounded(complexity(row).published_params / 1e9, "0.00") == Decimal("1.35")
    assert rounded(complexity(row, num_classes=21841).published_params / 1e9, "0.0") == Decimal("1.4")
