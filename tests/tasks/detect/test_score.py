import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as coco_mask
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from tests.killing import assert_same, fit_until, outcome
from tests.runs import BOX_CLASSES, BOX_NUMBERS, FixedDetector, box_recipe, coco_table, write_objects
from unireplknet.cli import main
from unireplknet.errors import UserError
from unireplknet.tasks.detect.data import load_coco
from unireplknet.tasks.detect.inputs import DetectInput
from unireplknet.tasks.detect.score import BoxScores, evaluate, predict, score
from unireplknet.training.learner import build_learner
from unireplknet.training.loader import build_loader
from unireplknet.training.run import Run, fit


@pytest.fixture(scope="module")
def detecting(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of Mask R-CNN; tests add to its folder but change nothing in it."""
    root = tmp_path_factory.mktemp("detecting")
    data = write_objects(root / "data", 64, empty=2)
    return fit(box_recipe(data, epochs=10, detector="mask_rcnn"), root / "run")


def as_json(found: list[dict[str, Tensor]], names: tuple[str, ...], masks: bool) -> list[dict[str, Any]]:
    """What was found in images 100, 101, ... as COCO's result file has it."""
    numbers = dict(zip(BOX_CLASSES, BOX_NUMBERS, strict=True))
    results = []
    for image, each in enumerate(found):
        for i, (left, top, right, bottom) in enumerate(each["boxes"].tolist()):
            entry = {"image_id": 100 + image, "category_id": numbers[names[each["labels"][i]]]}
            entry["score"] = each["scores"][i].item()
            entry["bbox"] = [left, top, right - left, bottom - top]
            if masks:
                entry["segmentation"] = coco_mask.encode(np.asfortranarray(each["masks"][i].numpy().astype(np.uint8)))
                del entry["bbox"]
            results.append(entry)
    return results


def coco_figures(table: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    """The twelve figures of the library, of its own reading of the files."""
    truth = COCO(str(table))
    evaluation = COCOeval_faster(truth, truth.loadRes(results), kind, print_function=lambda *_: None)
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        step()
    return [float(figure) for figure in evaluation.stats[:6]]


def figures_of(scores: BoxScores, kind: str) -> list[float]:
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    return [-1 if scores.figures[kind][name] is None else scores.figures[kind][name] for name in names]


def invented(data: Any, rng: np.random.Generator, masks: bool) -> list[dict[str, Tensor]]:
    """Boxes that are near the true ones, some missing, some double, some of the wrong class, with random scores."""
    found = []
    for item in data.splits["all"].items:
        width, height = item.size
        chosen = [box for box in item.boxes for _ in range(rng.integers(0, 3))]
        corners = np.array([box.corners for box in chosen], np.float32).reshape(-1, 4)
        corners = np.clip(corners + rng.integers(-3, 4, corners.shape), 0, [width, height] * 2)
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
        labels = [box.label if rng.random() < 0.8 else 1 - box.label for box in chosen]
        each = {"boxes": torch.from_numpy(corners), "labels": torch.tensor(labels, dtype=torch.int64)}
        each["scores"] = torch.rand(len(chosen)).sort(descending=True).values
        if masks:
            each["masks"] = torch.zeros(len(chosen), height, width, dtype=torch.bool)
            for mask, (left, top, right, bottom) in zip(each["masks"], corners.astype(int), strict=True):
                mask[top:bottom, left:right] = True
        found.append(each)
    return found


@pytest.mark.parametrize("masks", [False, True])
def test_scores_are_those_of_the_library_reading_the_files(masks: bool, tmp_path: Path) -> None:
    root = write_objects(tmp_path, 10, ((120, 160), (48, 64)), empty=1)
    table = root / "instances.json"
    content = json.loads(table.read_text(encoding="utf-8"))
    crowd = {"segmentation": coco_mask_of_half(120, 160)} | {"bbox": [0, 0, 80, 120], "area": 80 * 120, "iscrowd": 1}
    content["annotations"].append({"id": 99, "image_id": 100, "category_id": BOX_NUMBERS[0]} | crowd)
    table.write_text(json.dumps(content), encoding="utf-8")
    data, rng = load_coco(root, masks), np.random.default_rng(0)
    torch.manual_seed(0)
    found = invented(data, rng, masks)
    recipe = box_recipe(root, detector="mask_rcnn" if masks else "faster_rcnn")
    scores = score(FixedDetector(found), build_loader(recipe, data.splits["all"]), 2, masks)
    assert figures_of(scores, "box") == pytest.approx(coco_figures(table, as_json(found, data.names, False), "bbox"))
    assert 0.1 < scores.figures["box"]["ap"] < 0.9
    assert scores.images == 11
    assert scores.objects == [10, 10]
    if masks:
        expected = coco_figures(table, as_json(found, data.names, True), "segm")
        assert figures_of(scores, "mask") == pytest.approx(expected)
    per_class = list(scores.per_class["box"].values())
    assert np.mean(per_class) == pytest.approx(scores.figures["box"]["ap"])


def coco_mask_of_half(height: int, width: int) -> dict[str, Any]:
    return {"size": [height, width], "counts": [0, height * width // 2, height * width // 2]}


def test_perfect_answers_score_one_and_none_zero(tmp_path: Path) -> None:
    root = write_objects(tmp_path, 6)
    data = load_coco(root, masks=True)
    inputs = DetectInput(masks=True)
    truth = [inputs.to_map(inputs.read(item))[1] for item in data.splits["all"].items]
    perfect = [
        {k: t[k] for k in ("boxes", "labels", "masks")} | {"scores": torch.ones(len(t["labels"]))} for t in truth
    ]
    recipe = box_recipe(root, detector="mask_rcnn")
    summary = score(FixedDetector(perfect), build_loader(recipe, data.splits["all"]), 2, True).summary(data.names)
    for kind in ("box", "mask"):
        assert summary[kind]["ap"] == summary[kind]["ap75"] == pytest.approx(1)
        assert summary[kind]["ap_large"] is None
    assert [row["mask_ap"] for row in summary["per_class"].values()] == pytest.approx([1, 1])
    nothing = [{key: value[:0] for key, value in each.items()} for each in perfect]
    scores = score(FixedDetector(nothing), build_loader(recipe, data.splits["all"]), 2, True)
    assert scores.figures["box"]["ap"] == 0


def test_the_score_while_training_is_that_of_the_evaluation(tmp_path: Path) -> None:
    root = write_objects(tmp_path, 8)
    recipe = box_recipe(root)
    data = load_coco(root)
    task = build_learner(recipe, recipe.data.load(recipe.input), 1)
    torch.manual_seed(0)
    found = invented(data, np.random.default_rng(1), False)
    for batch in build_loader(recipe, data.splits["all"]):
        task.count([found[i] for i in batch.indices], batch.labels, task.scores)
    expected = score(FixedDetector(found), build_loader(recipe, data.splits["all"]), 2).figures["box"]["ap"]
    assert task.scores["box_ap"].compute().item() == pytest.approx(expected)
    task.scores["box_ap"].reset()
    task.count([{k: v[:0] for k, v in found[0].items()}], [{k: v[:0] for k, v in batch.labels[0].items()}], task.scores)
    assert task.scores["box_ap"].compute() == 0


def test_a_run_learns(detecting: Run) -> None:
    assert detecting.finished
    assert detecting.names == BOX_CLASSES[::-1]
    rows = list(detecting.rows())
    losses = [float(row["train/loss"]) for row in rows]
    assert losses[-1] < 0.6 * losses[0]
    assert all(row["val/box_ap"] and row["val/box_ap_raw"] for row in rows)
    file, scores = evaluate(detecting)
    written = json.loads(file.read_text(encoding="utf-8"))
    assert file.name == "evaluation-test.json"
    assert written["box"] == scores.figures["box"]
    assert written["per_class"].keys() == set(BOX_CLASSES)
    assert written["box"]["ap50"] > 0.5
    assert written["mask"]["ap50"] > 0.5
    val = evaluate(detecting, "val")[1].figures["box"]["ap"]
    assert val == pytest.approx(max(float(row["val/box_ap"]) for row in rows), abs=0.02)


def test_losses_of_the_task_are_the_detectors(tmp_path: Path) -> None:
    root = write_objects(tmp_path, 8)
    recipe = box_recipe(root)
    task = build_learner(recipe, recipe.data.load(recipe.input), 1)
    batch = next(iter(build_loader(recipe, load_coco(root).splits["all"], augment=True)))
    torch.manual_seed(0)
    expected = sum(loss.item() for loss in task.model(batch.maps, batch.labels).values())
    torch.manual_seed(0)
    assert task.objective(batch.maps, batch.labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("detector", ["faster_rcnn", "mask_rcnn", "retinanet"])
def test_a_process_without_samples_takes_part_and_changes_nothing(detector: str, tmp_path: Path) -> None:
    anchors = (16, 32, 64) if detector == "retinanet" else (8, 16, 32, 64)
    recipe = box_recipe(write_objects(tmp_path, 8), detector=detector, anchors=anchors)
    task = build_learner(recipe, recipe.data.load(recipe.input), 1)
    task.no_loss().backward()
    gradients = [p.grad for p in task.parameters() if p.requires_grad]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    assert torch.isfinite(task.objective([torch.zeros(task.map_shape)] * 2, task.blank_labels(2, task.map_shape)))


def true_boxes(images: Path, count: int) -> list[dict[str, Any]]:
    """The annotations of the first images, their classes by name."""
    content = json.loads((images.parent / "instances.json").read_text(encoding="utf-8"))
    names = dict(zip(BOX_NUMBERS, BOX_CLASSES, strict=True))
    chosen = [each for each in content["annotations"] if each["image_id"] < 100 + count]
    return [each | {"name": names[each["category_id"]]} for each in chosen]


def is_told(truth: dict[str, Any], objects: list[dict[str, Any]]) -> bool:
    """Whether a box of the right class covers a true one by half, as COCO counts it."""
    x, y, w, h = truth["bbox"]
    true = torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32)
    same = torch.tensor([each["box"] for each in objects if each["name"] == truth["name"]]).reshape(-1, 4)
    return bool((box_iou(true, same) > 0.5).any())


def test_the_command_line_scores_and_draws(detecting: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["evaluate", str(detecting.path), "--split", "val"]) == 0
    said = capsys.readouterr().out
    assert "box: AP " in said
    assert "mask: AP " in said
    assert "evaluation-val.json" in said
    images = detecting.path.parent / "data" / "images"
    (tmp_path / "broken.png").write_bytes(b"this is not a picture")
    words = ["predict", str(detecting.path), *(str(images / f"{i:02}.png") for i in range(12))]
    options = ["--least", "0.3", "--pictures", str(tmp_path / "drawn"), "--format", "json"]
    assert main([*words, str(tmp_path / "broken.png"), *options]) == 0
    *told, broken = json.loads(capsys.readouterr().out)
    assert broken["objects"] == []
    assert "broken.png" in broken["problem"]
    found = [is_told(truth, told[truth["image_id"] - 100]["objects"]) for truth in true_boxes(images, 12)]
    assert len(found) == 24
    assert np.mean(found) > 0.6, "boxes are given in pixels of the file"
    made = next(each for each in told if each["objects"])
    first = made["objects"][0]
    with Image.open(made["file"]) as image:
        mask = coco_mask.decode({"size": first["mask"]["size"], "counts": first["mask"]["counts"].encode()})
        assert mask.shape == (image.height, image.width)
    left, top, right, bottom = first["box"]
    assert 0.5 < mask.sum() / ((right - left) * (bottom - top)) < 1.5
    with Image.open(made["picture"]) as drawn:
        assert min(drawn.size) > 300
    assert main(words[:3]) == 0
    assert "00-drawn.png" in capsys.readouterr().out
    assert main([*words[:3], "--least", "1.1"]) == 0
    assert "nothing" in capsys.readouterr().out
    assert main([*words[:2], str(tmp_path / "broken.png")]) == 2
    assert "none of the files could be read; the first: " in capsys.readouterr().err


def test_files_of_one_name_do_not_overwrite_each_other(detecting: Run, tmp_path: Path) -> None:
    image = detecting.path.parent / "data" / "images" / "00.png"
    (tmp_path / "00.png").write_bytes(image.read_bytes())
    made = predict(detecting, [image, tmp_path / "00.png"], tmp_path / "drawn")
    assert len({p.picture for p in made}) == 2
    assert made[0].objects == made[1].objects


@pytest.mark.slow
def test_a_killed_detector_goes_on_bit_for_bit(tmp_path: Path) -> None:
    recipe = box_recipe(write_objects(tmp_path / "data", 16), epochs=2)
    whole = fit(recipe, tmp_path / "whole")
    assert fit_until(recipe, tmp_path / "cut", "step", epoch=1, batch=1) != 0
    assert not Run(tmp_path / "cut").finished
    assert_same(outcome(fit(recipe, tmp_path / "cut")), outcome(whole))


def test_missing_images_are_left_out_as_far_as_that_is_allowed(tmp_path: Path) -> None:
    root = write_objects(tmp_path / "data", 16)
    recipe = box_recipe(root, epochs=1)
    train = recipe.data.load(recipe.input).splits["train"]
    train.items[0].image.unlink()
    with pytest.raises(UserError, match=rf"more than data.max_unreadable = 0 .*{train.items[0].image.name}"):
        fit(recipe, tmp_path / "strict")
    run = fit(recipe.override({"data": {"max_unreadable": 1}}), tmp_path / "lax")
    assert [line for line in run.results["unreadable"] if train.items[0].image.name in line]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim": {"mixup": 0.5}}, r"boxes are learned with torchvision's losses, without optim.mixup"),
        (
            {"trainer": {"select": "accuracy"}},
            r"trainer.select is accuracy, which detection does not have; set it to box_ap or last",
        ),
        ({"head": {"detector": "mask_rcnn"}}, r"input.masks is for head.detector mask_rcnn, which needs it"),
        ({"input": {"masks": True}}, r"input.masks is for head.detector mask_rcnn"),
        ({"head": {"anchors": [8]}}, r"1 anchors for faster_rcnn; expected 4 or 5"),
        ({"model": {"row": "T3d 9 LarK"}}, r"boxes are found by named variants only"),
        ({"model": {"name": "unireplknet_q"}}, r"model unireplknet_q: Unknown model"),
        ({"model": {"num_classes": 9}}, r"model.num_classes is 9, the data have 2 classes"),
    ],
)
def test_what_boxes_have_not_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    recipe = box_recipe(write_objects(tmp_path / "data"))
    for part, values in change.items():
        for name, value in values.items():
            setattr(getattr(recipe, part), name, value)
    with pytest.raises(UserError, match=message):
        fit(recipe, tmp_path / "run")


def test_a_wrong_table_ends_the_command_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_objects(tmp_path / "data")
    table = coco_table([], [])
    (root / "instances.json").write_text(json.dumps(table | {"annotations": 3}), encoding="utf-8")
    box_recipe(root).save(tmp_path / "config.yaml")
    assert main(["train", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("unireplknet: error: ")
    assert "instances.json is not in COCO's form" in error


def test_export_says_that_it_does_not_write_detectors(
    detecting: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(detecting.path), "--out", str(tmp_path / "a.onnx")]) == 2
    assert "is for detection, whose networks are not exported" in capsys.readouterr().err
    assert main(["evaluate", str(detecting.path), "--sliding"]) == 2
    assert "unrecognized arguments: --sliding" in capsys.readouterr().err


def test_the_library_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchmetrics.detection.mean_ap._FASTER_COCO_EVAL_AVAILABLE", False)
    recipe = box_recipe(write_objects(tmp_path, 8))
    with pytest.raises(UserError, match=r'run: pip install "unireplknet\[detect\]"'):
        build_learner(recipe, recipe.data.load(recipe.input), 1)
