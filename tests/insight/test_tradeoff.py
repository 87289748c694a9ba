import io
from typing import Any

import pytest

from unireplknet.insight import tradeoff


def row(model: str, engine: str, batch: int, speed: float, top1: float | None, **other: Any) -> dict[str, Any]:
    published = None if top1 is None else {"top1": top1}
    base = {"model": model, "engine": engine, "batch": batch, "failure": None, "disturbed": []}
    return base | {"images_per_second": speed, "published": published} | other


def result(*rows: dict[str, Any], reasons: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "machine": {"cpu": "Abacus", "device": "cpu", "threads": 2, "date": "2026-01-01"},
        "settings": {"manner": {"device": "cpu", "dtype": "fp32", "mode": "forward"}},
        "disturbance": {"reasons": list(reasons)},
        "contenders": list(rows),
    }


def draw(found: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    figures, make = [], tradeoff.new_figure
    monkeypatch.setattr(tradeoff, "new_figure", lambda *size: figures.append(make(*size)) or figures[-1])
    file = io.BytesIO()
    assert tradeoff.draw_tradeoff(found, file)
    assert file.getvalue().startswith(b"\x89PNG")
    return figures[0]


def test_points_lie_at_speed_and_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = draw(
        result(
            row("unireplknet_f", "eager", 8, 80.0, 78.6),
            row("unireplknet_a", "eager", 8, 100.0, 77.0),
            row("unireplknet_a", "openvino", 8, 150.0, 77.0),
            row("convnextv2_atto", "eager", 8, 90.0, 76.7),
            row("convnextv2_atto", "eager", 16, 95.0, 76.7),
            row("resnet18", "eager", 8, 300.0, None),
            row("unireplknet_t", "eager", 8, 0.0, 83.2, failure="no"),
        ),
        monkeypatch,
    )
    panels = {
        axes.get_title(): {
            line.get_label(): list(zip(*map(list, line.get_data()), strict=True)) for line in axes.get_lines()
        }
        for axes in figure.axes
    }
    assert panels == {
        "batch 8": {
            "unireplknet, eager": [(100.0, 77.0), (80.0, 78.6)],
            "unireplknet, openvino": [(150.0, 77.0)],
            "convnextv2, eager": [(90.0, 76.7)],
        },
        "batch 16": {"convnextv2, eager": [(95.0, 76.7)]},
    }
    names = {text.get_text(): text.xy for text in figure.axes[0].texts}
    assert names == {
        "unireplknet_a": (150.0, 77.0),
        "unireplknet_f": (80.0, 78.6),
        "convnextv2_atto": (90.0, 76.7),
    }


def test_disturbance_is_in_the_title(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = row("unireplknet_a", "eager", 8, 100.0, 77.0)
    assert "disturbed" not in draw(result(quiet), monkeypatch).get_suptitle()
    assert "disturbed" in draw(result(quiet, reasons=("a",)), monkeypatch).get_suptitle()
    assert "disturbed" in draw(result(quiet | {"disturbed": ["b"]}), monkeypatch).get_suptitle()


def test_nothing_to_draw() -> None:
    assert not tradeoff.draw_tradeoff(result(row("resnet18", "eager", 8, 300.0, None)), io.BytesIO())
