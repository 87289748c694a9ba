"""Found boxes held against true ones, and what is drawn of both."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image
from torch import Tensor

from unireplknet.tasks.dense.draw import class_colour
from unireplknet.tasks.detect.draw import CROWD, NONE, cut_out, draw_boxes, draw_true_and_found, match


def objects(boxes: list[list[float]], labels: list[int], **others: Tensor) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64), **others}


def random_objects(rng: np.random.Generator, count: int, around: Tensor | None = None) -> dict[str, Tensor]:
    """Boxes anywhere, or near those of others."""
    if around is None:
        corner = rng.uniform(0, 20, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 20, (count, 2))], 1)
    else:
        boxes = around[rng.integers(0, len(around), count)].numpy() + rng.uniform(-2, 2, (count, 4))
    return objects(boxes.clip(0).tolist(), rng.integers(0, 2, count).tolist())


def recalled(found: dict[str, Tensor], truth: dict[str, Tensor]) -> list[int]:
    """How many objects of each class are found by an overlap of half, by the library."""

    def entries(part: dict[str, Tensor]) -> list[dict[str, Any]]:
        corners = zip(part["boxes"].tolist(), part["labels"].tolist(), strict=True)
        sides = [([a, b, c - a, d - b], label) for (a, b, c, d), label in corners]
        common = {"image_id": 1, "iscrowd": 0}
        return [
            {"id": i, "category_id": k + 1, "bbox": s, "area": s[2] * s[3], **common}
            for i, (s, k) in enumerate(sides, 1)
        ]

    images = [{"id": 1, "width": 64, "height": 64, "file_name": "a"}]
    kinds = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    true = COCO({"images": images, "annotations": entries(truth), "categories": kinds})
    said = [e | {"score": score} for e, score in zip(entries(found), found["scores"].tolist(), strict=True)]
    evaluation = COCOeval_faster(true, true.loadRes(said), "bbox", print_function=lambda *_: None)
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.evaluate()
    evaluation.accumulate()
    counts = truth["labels"].bincount(minlength=2).numpy()
    return np.round(np.asarray(evaluation.eval["recall"])[0, :, 0, -1] * counts).astype(int).tolist()


def test_as_many_are_found_as_the_library_finds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = random_objects(rng, 12) | {"iscrowd": torch.zeros(12, dtype=torch.bool)}
        found = random_objects(rng, 14, truth["boxes"]) | {"scores": torch.linspace(0.9, 0.1, 14)}
        matched = match(found, truth)
        taken = matched[matched >= 0]
        assert len(taken.unique()) == len(taken)
        assert truth["labels"][taken].bincount(minlength=2).tolist() == recalled(found, truth)
        assert 0 < len(taken) < 12


def test_a_true_box_is_found_once_by_the_surest_box_of_its_class() -> None:
    truth = objects([[0, 0, 10, 10], [0, 0, 10, 8], [30, 30, 40, 40]], [0, 0, 1], iscrowd=torch.zeros(3, dtype=bool))
    boxes = [[0, 0, 10, 9.5], [0, 0, 10, 10], [0, 0, 10, 10], [30, 30, 40, 40], [30, 30, 40, 34.0]]
    found = objects(boxes, [0, 0, 0, 0, 1], scores=torch.linspace(0.9, 0.5, 5))
    assert match(found, truth).tolist() == [0, 1, NONE, NONE, NONE]
    nothing = objects([], [], scores=torch.zeros(0))
    assert match(nothing, truth).tolist() == []
    assert match(found, objects([], [], iscrowd=torch.zeros(0, dtype=bool))).tolist() == [NONE] * 5


def test_what_lies_in_a_crowd_counts_for_nothing() -> None:
    truth = objects([[0, 0, 50, 50], [5, 5, 15, 15]], [0, 0], iscrowd=torch.tensor([True, False]))
    boxes = [[5, 5, 15, 15], [20, 20, 30, 30], [44, 0, 54, 10], [46, 0, 56, 10], [20, 20, 30, 30]]
    found = objects(boxes, [0, 0, 0, 0, 1], scores=torch.linspace(0.9, 0.5, 5))
    assert match(found, truth).tolist() == [1, CROWD, CROWD, NONE, NONE]


def test_pictures_show_true_boxes_on_the_left_and_found_ones_on_the_right(tmp_path: Path) -> None:
    pixels = np.full((40, 60, 3), 0.5)
    truth = objects([[5, 5, 30, 30]], [0])
    found = objects([[20, 10, 50, 35]], [1], scores=torch.tensor([0.8]))
    draw_true_and_found(pixels, truth, found, ("$a", "b$"), "$x", tmp_path / "both.png")
    drawn = np.asarray(Image.open(tmp_path / "both.png").convert("RGB")).astype(int)
    middle = drawn.shape[1] // 2
    for label, (own, other) in enumerate((np.s_[:, :middle], np.s_[:, middle:])[:: 1 - 2 * label] for label in (0, 1)):
        near = abs(drawn - class_colour(label)).max(2) < 8
        assert near[own].sum() > 200
        assert near[other].sum() == 0
    masks = torch.zeros(1, 40, 60, dtype=torch.bool)
    masks[0, 10:35, 20:50] = True
    draw_boxes(pixels, found, ("$a", "b$"), "$x", tmp_path / "without.png")
    draw_boxes(pixels, found | {"masks": masks}, ("$a", "b$"), "$x", tmp_path / "with.png")
    plain, filled = (
        np.asarray(Image.open(tmp_path / f"{n}.png").convert("RGB")).astype(int) for n in ("without", "with")
    )
    assert 0.1 < (abs(plain - filled).max(2) > 20).mean() < 0.6


@pytest.mark.parametrize(
    ("box", "shape"),
    [([20, 20, 40, 40], (150, 150)), ([0, 0, 8, 8], (156, 156)), ([0, 0, 500, 400], (125, 150))],
)
def test_a_piece_has_its_surroundings_and_a_usual_size(box: list[int], shape: tuple[int, int]) -> None:
    pixels = np.zeros((500, 600, 3))
    pixels[box[1] : box[3], box[0] : box[2]] = 1
    piece = cut_out(pixels, torch.tensor(box, dtype=torch.float32))
    assert piece.shape[:2] == shape
    assert piece.dtype == np.uint8
    assert piece[piece.shape[0] // 2, piece.shape[1] // 2].tolist() == [255] * 3
    assert not piece[-1].any()
