import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.killing import assert_same, fit_until, outcome
from tests.runs import MASK_CLASSES, draw_scene, mask_recipe, write_scenes
from unireplknet.cli import main
from unireplknet.errors import UserError
from unireplknet.tasks.segment.data import IGNORE, Pair
from unireplknet.tasks.segment.network import Segmenter
from unireplknet.tasks.segment.score import Look, MaskScores, evaluate, predict, probabilities, whole_or_sliding
from unireplknet.training.learner import build_learner
from unireplknet.training.run import Run, fit


@pytest.fixture(scope="module")
def segmenting(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; tests add to its folder but change nothing in it."""
    root = tmp_path_factory.mktemp("segmenting")
    return fit(mask_recipe(write_scenes(root / "data", 32), epochs=6), root / "run")


def iou_by_hand(said: list[np.ndarray], true: list[np.ndarray], classes: int) -> list[float]:
    """Class by class over the pixels of all images, from the definition."""
    found = []
    for number in range(classes):
        intersection = union = 0
        for a, b in zip(said, true, strict=True):
            counts = b != IGNORE
            intersection += ((a == number) & (b == number) & counts).sum()
            union += (((a == number) | (b == number)) & counts).sum()
        found.append(intersection / union if union else np.nan)
    return found


def test_a_run_learns_and_its_scores_are_those_of_numpy(segmenting: Run) -> None:
    assert segmenting.finished
    assert segmenting.names == MASK_CLASSES
    losses = [float(row["train/loss"]) for row in segmenting.rows()]
    assert losses[-1] < 0.6 * losses[0]
    file, scores = evaluate(segmenting)
    written = json.loads(file.read_text(encoding="utf-8"))
    assert file.name == "evaluation-test.json"
    assert written["per_class"].keys() == set(MASK_CLASSES)

    model, said, true = segmenting.load_model(), [], []
    for pair in segmenting.load_data().splits["test"].items:
        said.append(by_hand_from(pair.image, model, [1.0], [False]).argmax(0))
        mask = np.asarray(Image.open(pair.mask)).astype(int)
        true.append(np.where(mask == 255, IGNORE, mask))
    by_hand = iou_by_hand(said, true, 3)
    # Scaled as bytes or as numbers, single pixels between two classes come out otherwise.
    assert scores.iou == pytest.approx(by_hand, abs=2e-3)
    assert written["miou"] == pytest.approx(scores.iou.mean())
    assert written["miou"] > 0.6
    counted = [(a == b)[b != IGNORE] for a, b in zip(said, true, strict=True)]
    assert written["pixel_accuracy"] == pytest.approx(np.concatenate(counted).mean(), abs=2e-3)
    assert written["pixels"] == sum(len(part) for part in counted)


def by_hand_from(image: Path, model: nn.Module, scales: list[float], flips: list[bool]) -> np.ndarray:
    """Probabilities (classes, H, W): of each scale by Pillow from the file, the shorter side 32 times as large."""
    with Image.open(image) as opened:
        width, height = opened.size
        looks = []
        for scale in scales:
            factor = scale * 32 / min(width, height)
            pixels = opened.resize((round(width * factor), round(height * factor)), Image.Resampling.BILINEAR)
            numbers = (np.asarray(pixels) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
            for flip in flips:
                x = torch.from_numpy(np.flip(numbers, 1).copy() if flip else numbers).float().permute(2, 0, 1)[None]
                with torch.no_grad():
                    logits = model(x).flip(3) if flip else model(x)
                scaled = nn.functional.interpolate(logits, size=(height, width), mode="bilinear")
                looks.append(scaled.softmax(1)[0].numpy())
    return np.mean(looks, 0)


def test_each_scale_is_made_of_the_image_as_it_is(segmenting: Run) -> None:
    """And not of the image as another scale has left it."""
    inputs, model = segmenting.recipe.input, segmenting.load_model()
    look = replace(Look.of(segmenting.recipe, multi_scale=True), scales=(0.5, 1.0, 2.0))
    image = segmenting.load_data().splits["test"].items[0].image
    map, _ = inputs.whole(inputs.read(Pair(image)))
    with torch.no_grad():
        found = probabilities(model, map[None], look)
    expected = by_hand_from(image, model, [0.5, 1.0, 2.0], [False, True])
    assert np.abs(found.numpy() - expected).max() < 0.01


def test_the_score_while_training_is_that_of_numpy(tmp_path: Path) -> None:
    recipe = mask_recipe(write_scenes(tmp_path), epochs=1)
    task = build_learner(recipe, recipe.data.load(recipe.input), 1)
    rng = np.random.default_rng(0)
    logits, labels = torch.randn(4, 3, 9, 7), torch.from_numpy(rng.choice([0, 1, IGNORE], (4, 9, 7)))
    logits[:, 2] = -9  # a class that is nowhere counts for nothing
    for part in (slice(0, 3), slice(3, 4)):
        task.count(logits[part], labels[part], task.scores)
    said, true = logits.argmax(1).numpy(), labels.numpy()
    assert task.scores["miou"].compute().item() == pytest.approx(
        np.nanmean(iou_by_hand(list(said), list(true), 3)), abs=1e-6
    )
    loss = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE)
    assert task.scores["loss"].compute().item() == pytest.approx(loss.item(), rel=1e-5)
    task.count(logits[:1], torch.full((1, 9, 7), IGNORE), task.scores)
    assert task.scores["loss"].compute().item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("auxiliary", [0.0, 0.4])
def test_the_loss_is_that_of_pytorch_on_both_heads(auxiliary: float, tmp_path: Path) -> None:
    recipe = mask_recipe(write_scenes(tmp_path), auxiliary=auxiliary)
    task = build_learner(recipe, recipe.data.load(recipe.input), 1).eval()
    maps, labels = torch.randn(2, 3, 32, 32), torch.randint(0, 3, (2, 32, 32))
    labels[:, :5] = IGNORE
    losses = [nn.functional.cross_entropy(x, labels, ignore_index=IGNORE) for x in task.model.forward_training(maps)]
    expected = losses[0] + (auxiliary * losses[1] if auxiliary else 0)
    assert task.objective(maps, labels).item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = task.objective(maps, torch.full_like(labels, IGNORE))
    assert nothing.item() == 0


def test_a_batch_of_which_one_image_is_readable_is_learnt(tmp_path: Path) -> None:
    """UPerNet's coarsest level, one pixel an image, has no batch statistics then."""
    recipe = mask_recipe(write_scenes(tmp_path), decoder="upernet", width=16)
    task = build_learner(recipe, recipe.data.load(recipe.input), 1)
    maps, labels = torch.randn(1, 3, 32, 32), torch.randint(0, 3, (1, 32, 32))
    loss = task.train().objective(maps, labels)
    loss.backward()
    pair = task.objective(maps.repeat(2, 1, 1, 1), labels.repeat(2, 1, 1))
    assert loss.item() == pytest.approx(pair.item(), rel=1e-5)


@pytest.mark.parametrize("backbone", ["test_unireplknet", "test_convnext"])
def test_upernet_learns(backbone: str) -> None:
    """The loss of a few steps falls; for any network of timm's, by the same code."""
    torch.manual_seed(0)
    model = Segmenter(backbone, 3, 3, width=16)
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng, 32, 32) for _ in range(4)]
    maps = torch.stack([torch.from_numpy(pixels).permute(2, 0, 1) for pixels, _ in scenes]) / 127.5 - 1
    labels = torch.stack([torch.from_numpy(mask.astype(np.int64)) for _, mask in scenes])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(maps), labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


class Position(nn.Module):
    """Logits that tell where a pixel lies in what the network is given, and how bright it is."""

    def forward(self, x: Tensor) -> Tensor:
        columns = torch.arange(x.shape[3], dtype=x.dtype).expand(len(x), 1, *x.shape[2:])
        return torch.cat([x[:, :1], columns, x.mean((2, 3), keepdim=True).expand_as(x)[:, :1]], 1)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (10, 24), (20, 7), (1, 1)])
def test_a_window_that_covers_the_image_is_the_whole(height: int, width: int) -> None:
    map = torch.randn(1, 3, height, width)
    whole = whole_or_sliding(Position(), map, Look())
    assert torch.equal(whole_or_sliding(Position(), map, Look(window=24, overlap=1 / 3)), whole)
    assert torch.equal(whole_or_sliding(Position(), map, Look(window=99)), whole)


@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.5])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (19, 30), (9, 8), (40, 5)])
def test_windows_cover_everything_and_are_averaged(height: int, width: int, overlap: float) -> None:
    map = torch.randn(1, 3, height, width)
    seen: list[torch.Size] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.shape)
        return Position()(x)

    made = whole_or_sliding(model, map, Look(window=8, overlap=overlap))
    assert torch.allclose(made[:, 0], map[:, 0])  # what depends on the pixel alone is as it was
    assert {tuple(shape[2:]) for shape in seen} == {(min(8, height), min(8, width))}
    stride = max(1, round(8 * (1 - overlap)))
    assert len(seen) == np.prod([max(1, -(-(side - 8) // stride) + 1) for side in (height, width)])


def test_scales_and_mirror_images_are_averaged() -> None:
    map = torch.randn(1, 3, 12, 16)
    once = probabilities(Position(), map, Look())
    assert torch.allclose(once, Position()(map)[0].softmax(0))
    both = probabilities(Position(), map, Look(mirrored=True))
    mirrored = Position()(map.flip(3)).flip(3)[0].softmax(0)
    assert torch.allclose(both, (once + mirrored) / 2)
    double = probabilities(Position(), map, Look((1.0, 2.0)))
    scaled = nn.functional.interpolate(map, size=(24, 32), mode="bilinear")
    logits = nn.functional.interpolate(Position()(scaled), size=(12, 16), mode="bilinear")
    assert torch.allclose(double, (once + logits[0].softmax(0)) / 2, atol=1e-6)


def test_a_class_that_is_nowhere_has_no_score() -> None:
    scores = MaskScores(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), 1, [])
    assert scores.iou[:2] == pytest.approx([3 / 4, 4 / 5])
    summary = scores.summary(MASK_CLASSES)
    assert summary["miou"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert summary["per_class"]["blue"] == {"iou": None, "pixels": 0}


def test_the_command_line_scores_and_draws(segmenting: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["evaluate", str(segmenting.path), "--split", "val"]) == 0
    assert "mean IoU" in capsys.readouterr().out
    assert main(["evaluate", str(segmenting.path), "--split", "val", "--multi-scale", "--sliding"]) == 0
    assert "evaluation-val-multi-scale-sliding.json" in capsys.readouterr().out
    images = segmenting.path.parent / "data" / "images"
    (tmp_path / "broken.png").write_bytes(b"this is not a picture")
    words = ["predict", str(segmenting.path), str(images / "00.png"), str(tmp_path / "broken.png")]
    assert main([*words, "--pictures", str(tmp_path / "drawn"), "--format", "json"]) == 0
    made, broken = json.loads(capsys.readouterr().out)
    assert broken["mask"] == ""
    assert "broken.png" in broken["problem"]
    with Image.open(made["mask"]) as mask, Image.open(images / "00.png") as image, Image.open(made["picture"]) as drawn:
        assert mask.size == image.size
        assert mask.mode == "L"
        shares = {
            MASK_CLASSES[i]: count
            for i, count in enumerate(np.bincount(np.asarray(mask).flat) / mask.width / mask.height)
        }
        assert made["shares"] == pytest.approx({name: share for name, share in shares.items() if share})
        assert min(drawn.size) > 300
    truth = np.asarray(Image.open(images.parent / "masks" / "00.png"))
    predicted = np.asarray(Image.open(made["mask"]))
    assert (predicted == truth)[truth != 255].mean() > 0.8
    assert main(words[:3]) == 0
    assert "00-drawn.png" in capsys.readouterr().out


def test_files_of_one_name_do_not_overwrite_each_other(segmenting: Run, tmp_path: Path) -> None:
    image = segmenting.path.parent / "data" / "images" / "00.png"
    (tmp_path / "00.png").write_bytes(image.read_bytes())
    made = predict(segmenting, [image, tmp_path / "00.png"], tmp_path / "drawn")
    assert len({p.mask for p in made}) == len({p.picture for p in made}) == 2


@pytest.mark.slow
def test_a_killed_segmenter_goes_on_bit_for_bit(tmp_path: Path) -> None:
    recipe = mask_recipe(write_scenes(tmp_path / "data", 8), epochs=2)
    whole = fit(recipe, tmp_path / "whole")
    assert fit_until(recipe, tmp_path / "cut", "step", epoch=1, batch=1) != 0
    assert not Run(tmp_path / "cut").finished
    assert_same(outcome(fit(recipe, tmp_path / "cut")), outcome(whole))


def test_a_wrong_mask_ends_the_run_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_scenes(tmp_path / "data")
    for path in (root / "masks").iterdir():
        Image.fromarray(np.full((9, 9), 7, np.uint8)).save(path)
    mask_recipe(root).save(tmp_path / "config.yaml")
    assert main(["train", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("unireplknet: error: ")
    assert ".png has the number 7; the 3 classes are 0 to 2, and 255 is ignored" in error


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (
            (0, 255, 255),
            r"show ground alone: .*\.png has the numbers 0, 255; the 3 classes are 0 to 2, and 255 is ignored",
        ),
        ((255, 255, 255), r"show no class alone: .* has the numbers 255;"),
    ],
)
def test_masks_in_which_objects_have_the_number_that_is_ignored(
    numbers: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    """Black and white masks, as many tools write them: everything would be ground, and all of it right."""
    root = write_scenes(tmp_path / "data")
    for path in (root / "masks").iterdir():
        mask = np.append(numbers, 255)[np.minimum(np.asarray(Image.open(path)), 3)]
        Image.fromarray(mask.astype(np.uint8)).save(path)
    with pytest.raises(UserError, match=message):
        fit(mask_recipe(root), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    # One that cannot be read is told later.
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(root / "masks" / "00.png")
    with pytest.raises(UserError, match=message):
        fit(mask_recipe(root), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim": {"mixup": 0.5}}, r"without optim.mixup"),
        ({"optim": {"loss": "bce"}}, r"optim.loss cross_entropy"),
        (
            {"trainer": {"select": "accuracy"}},
            r"which segmentation does not have; set it to miou or loss or last",
        ),
        ({"head": {"decoder": "upernet"}, "optim": {"batch_size": 1}}, r"UPerNet's batch statistics need 2 images"),
        ({"model": {"row": "T3d 9 LarK"}}, r"masks are made by named variants only"),
        ({"model": {"name": "unireplknet_q"}}, r"model unireplknet_q: Unknown model"),
        ({"model": {"num_classes": 9}}, r"model.num_classes is 9, the data have 3 classes"),
        ({"model": {"name": "test_convnext", "stem_stride": 4, "dims": [], "weights": "x"}}, r"no weights at x"),
    ],
)
def test_what_masks_have_not_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    recipe = mask_recipe(write_scenes(tmp_path / "data"))
    for part, values in change.items():
        for name, value in values.items():
            setattr(getattr(recipe, part), name, value)
    with pytest.raises(UserError, match=message):
        fit(recipe, tmp_path / "run")


def test_flags_for_masks_are_refused_elsewhere(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained.path), "--sliding"]) == 2
    assert "unrecognized arguments: --sliding" in capsys.readouterr().err


def test_the_exported_segmenter_is_the_network_itself(segmenting: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    assert main(["export", str(segmenting.path), "--out", str(tmp_path / "a.onnx")]) == 0
    session = pytest.importorskip("onnxruntime").InferenceSession(str(tmp_path / "a.onnx"))
    maps = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = segmenting.load_model().double()(maps.double()).numpy()
    (found,) = session.run(None, {"maps": maps.numpy()})
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
