"""The published recipes: each takes two real steps on a small tree of JPEGs, and says what the paper says."""

import re
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image

from unireplknet.modalities.image import ImageInput
from unireplknet.models.complexity import count_macs
from unireplknet.models.published import VARIANT_ROWS
from unireplknet.recipes import SAMPLES, imagenet
from unireplknet.tasks.classify.learn import ClassificationLearner
from unireplknet.training.engine import quiet
from unireplknet.training.loader import build_loader
from unireplknet.training.optim import build_optimizer
from unireplknet.training.plan import Memory, Plan
from unireplknet.training.recipe import Recipe

each = pytest.mark.parametrize("function", imagenet.ALL, ids=lambda function: function.__name__)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of JPEGs of varied size, in the layout of ImageNet."""
    root, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in ("n01440764", "n01443537", "n01484850"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (40 + 7 * i, 64 - 5 * i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}_{i}.JPEG")
    return root


def reduced(recipe: Recipe, tree: Path) -> Recipe:
    """The recipe on one small device, narrow where another one has its network or it is large, otherwise as it is."""
    flags = ["--data.path", str(tree), "--data.workers", "0", "--input.size", "32", "--model.weights", ""]
    flags += ["--trainer.devices", "1", "--trainer.accelerator", "cpu", "--trainer.progress", "false"]
    flags += ["--optim.batch_size", "8", "--optim.accumulate", "2"]
    if not recipe.name.startswith("in1k_"):
        flags += ["--model.dims", "[16, 32, 64, 128]"]
    return recipe.override(flags)


@each
def test_two_steps(function: Callable[[], Recipe], tree: Path) -> None:
    recipe = reduced(function(), tree)
    data = recipe.data.load(recipe.input)
    torch.manual_seed(0)
    model = recipe.model.build(recipe.input.channels, data.classes)
    recipe.trainer.prepare(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train = build_loader(recipe, data.splits["train"], augment=True)
    task = ClassificationLearner(model, recipe, len(data.classes), steps_per_epoch=2)
    with quiet():
        trainer = pl.Trainer(
            max_steps=2,
            accelerator="cpu",
            accumulate_grad_batches=recipe.optim.accumulate,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, train, build_loader(recipe, data.splits["val"]))
    assert trainer.global_step == 2
    assert len(train) == (len(data.splits["train"]) // 8) * 2
    assert all(torch.isfinite(trainer.callback_metrics[name]) for name in ("train/loss", "val/loss", "val/accuracy"))
    # GRN's and the layer scale's gradients may underflow beside AdamW's epsilon; the head and the stem move.
    for name in ("stem.conv1.weight", "head.fc.weight"):
        assert not torch.equal(before[name], model.get_parameter(name))


@each
def test_what_the_authors_publish(function: Callable[[], Recipe]) -> None:
    recipe = function()
    assert recipe.optim.decay_grn
    assert recipe.optim.min_lr == 1e-6
    assert recipe.augment.policy == "rand-m9-mstd0.5-inc1"
    assert recipe.optim.device_batch(recipe.trainer.devices) * recipe.optim.accumulate * recipe.trainer.devices in (
        512,
        4096,
    )
    if "384" in recipe.name:
        assert isinstance(recipe.input, ImageInput)
        assert (recipe.input.size, recipe.input.fit) == (384, "squash")


@each
def test_hours_are_those_of_the_stated_estimate(function: Callable[[], Recipe]) -> None:
    """The plan's formula with the stated TFLOP/s: those of S (table 18), less by table 5 for smaller ones."""
    recipe, doc = function(), function.__doc__ or ""
    claim = re.search(r"Time: about (\d+) h on (\d+) A100 at (\d+) TFLOP/s each", doc)
    assert claim is not None
    hours, devices, tflops = map(int, claim.groups())
    samples = SAMPLES[recipe.name].split(recipe.data.val_fraction)
    assert isinstance(recipe.input, ImageInput)
    size, recipe.model.weights = recipe.input.size, ""
    with torch.device("meta"):
        model = recipe.model.build(3, [str(i) for i in range(samples.classes)])
    macs = count_macs(model, (3, size, size))
    steps = samples.splits["train"] // recipe.optim.batch_size
    nothing = Memory(0, 0, 0, 0, 0, ())
    plan = Plan(recipe, samples, steps, 0, (), nothing, macs, ((3, size, size),))
    assert plan.devices == devices
    assert hours == pytest.approx(plan.seconds(tflops) / 3600, abs=0.6)
    throughput = {row.label: row.images_per_second or 0 for row in VARIANT_ROWS if row.size == 224}
    reached = 46.0
    if recipe.model.row:
        reached = 6642 / 8 * 1863 / 1265 * 6 * macs / 1e12  # table 3d, first row, beside S in table 5
    elif recipe.name.startswith("in1k_"):
        reached = 6642 / 8 * throughput[recipe.model.name] / 1265 * 6 * macs / 1e12
    assert tflops == pytest.approx(reached, abs=0.8)


@each
def test_scores_are_those_of_table_5(function: Callable[[], Recipe]) -> None:
    recipe, doc = function(), function.__doc__ or ""
    assert doc.rstrip().endswith("Not run.")
    if "top-1" in doc and not recipe.model.row:
        size = 384 if "384" in recipe.name else 224
        (row,) = (r for r in VARIANT_ROWS if r.label == recipe.model.name and r.size == size)
        assert f"Score: {row.top1}% top-1" in doc


def test_the_stem_learns_as_slowly_as_with_the_authors_groups() -> None:
    recipe = imagenet.in1k384_s()
    recipe.model.weights = ""
    with torch.device("meta"):
        model = recipe.model.build(3, "ab")
    rates = [group["lr"] for group in build_optimizer(model, recipe.optim).param_groups]
    assert max(rates) == recipe.optim.lr
    assert min(rates) / max(rates) == pytest.approx(0.8**13, rel=0.03)
