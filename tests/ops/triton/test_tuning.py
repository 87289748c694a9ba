"""Candidates compute the same convolution, and only files that the user names change a launch. Interpreted."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unireplknet.ops.triton import depthwise, tiles, tuning
from unireplknet.ops.triton.geometry import Kernel

slow = pytest.mark.slow
KERNELS = (Kernel(5, 5),)
SHAPES = [(2, 1, 7, 7, 5, 1), (1, 1, 14, 14, 13, 1), (2, 1, 3, 70, 5, 1), (1, 1, 6, 9, 3, 2)]


def tensors(shape, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor, int]:
    *size, kernel, dilation = shape
    return (
        torch.randn(size, dtype=dtype),
        torch.randn(size[1], 1, kernel, kernel),
        torch.randn(size, dtype=dtype),
        dilation,
    )


@pytest.mark.parametrize(
    "dtype", [torch.float32, *(pytest.param(d, marks=slow) for d in (torch.float64, torch.float16))]
)
@pytest.mark.parametrize("kind", ["conv", "correlate"])
@pytest.mark.parametrize("shape", [SHAPES[0], *(pytest.param(s, marks=slow) for s in SHAPES[1:])])
def test_every_candidate_passes_its_check(shape, kind, dtype) -> None:
    results = tuning.tune(kind, *tensors(shape, dtype), timer=lambda call: 1.0)
    assert len(results) > 3
    assert all(result == 1.0 for result in results.values()), results


@pytest.mark.parametrize("kind", ["conv", "correlate"])
def test_a_wrong_candidate_is_not_timed_and_the_fastest_right_one_wins(kind, monkeypatch) -> None:
    x, weight, grad, _ = tensors(SHAPES[0], torch.float32)
    first, second, third, *_ = tiles.candidates(kind, x, KERNELS)
    name = "forward" if kind == "conv" else "grad_weight"
    right = getattr(depthwise, name)

    def wrong_for_the_second(*args):
        chosen = tiles.choose(kind, x, KERNELS)
        return right(*args) * (1.001 if chosen == second else 1)

    monkeypatch.setattr(depthwise, name, wrong_for_the_second)
    times = {first: 3.0, second: 1.0, third: 2.0}
    results = tuning.tune(kind, x, weight, grad, 1, lambda call: times.get(tiles.choose(kind, x, KERNELS), 9.0))
    assert "error" in str(results[second])
    assert tuning.fastest(results) == third


def test_a_file_is_used_only_if_named_and_keeps_other_entries(tmp_path: Path, monkeypatch) -> None:
    x, *_ = tensors(SHAPES[0])
    case, other = tiles.key("conv", x, KERNELS), tiles.candidates("conv", x, KERNELS)[1]
    path = tmp_path / "new" / "tuned.json"
    tuning.save(path, {"another card": other})
    tuning.save(path, {case: other})
    assert tiles.load(path) == {"another card": other, case: other}
    assert tiles.choose("conv", x, KERNELS) == tiles.shipped("conv", x) != other
    monkeypatch.setattr(tiles, "_path", str(path))
    assert tiles.choose("conv", x, KERNELS) == other


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"CASE": 3}', "{}", '{"CASE": {"group": 1}}', "foreign", "odd", "float"]
)
def test_bad_files_fall_back_to_shipped_tiles_with_one_line(content, tmp_path: Path, monkeypatch, caplog) -> None:
    x, *_ = tensors(SHAPES[0])
    path = tmp_path / "tuned.json"
    case, default = tiles.key("conv", x, KERNELS), tiles.shipped("conv", x)
    wrong = {
        "foreign": {"foreign": default},
        "odd": {case: default._replace(block_m=48)},
        "float": {case: default._replace(block_m=float(default.block_m))},  # type: ignore[arg-type]
    }
    if content in wrong:
        tuning.save(path, wrong[content])
    elif content is not None:
        path.write_text(content.replace("CASE", case))
    monkeypatch.setattr(tiles, "_path", str(path))
    with caplog.at_level(logging.WARNING):
        assert [tiles.choose("conv", x, KERNELS) for _ in range(2)] == [default] * 2
    lines = [record.message for record in caplog.records]
    assert len(lines) == (content != "{}")
    assert all("\n" not in line for line in lines)


@pytest.fixture(autouse=True)
def _forget_warnings() -> None:
    tiles._warn.cache_clear()
    tiles._read.cache_clear()
    tiles._from_file.cache_clear()
