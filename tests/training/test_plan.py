"""The plan against hand computations, real schedulers, real steps and the counts of models/complexity.py."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import runs
from tests.runs import forecast_recipe, image_recipe, write_tree, write_weather
from unireplknet.cli import main
from unireplknet.errors import UserError
from unireplknet.models.complexity import complexity
from unireplknet.models.published import VARIANT_ROWS
from unireplknet.recipes import SAMPLES, find_recipe
from unireplknet.training import plan as planning
from unireplknet.training.optim import build_optimizer, build_schedule
from unireplknet.training.plan import Memory, Samples, _build, describe, make_plan
from unireplknet.training.recipe import Recipe


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return image_recipe(write_tree(tmp_path_factory.mktemp("plan") / "data"))


def without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_activations", lambda *_: 0)


def test_imagenet_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    without_measuring(monkeypatch)
    recipe = find_recipe("in1k_t")
    plan = make_plan(recipe, SAMPLES["in1k_t"])
    assert plan.steps_per_epoch == 312  # 1,281,167 / 4096 = 312.8
    assert plan.steps == 312 * 300
    assert plan.warmup == 312 * 5
    assert plan.highest_lr == 4e-3
    assert (plan.devices, plan.device_batch) == (4, 128)
    lines = "\n".join(describe(plan, recipe))
    for said in ("4096 = 4 device(s) x 8 part(s) x 128 samples", "93,600", "1,560 steps", "assumed", "3,215 samples"):
        assert said in lines


def test_the_22k_data_give_a_val_split(monkeypatch: pytest.MonkeyPatch) -> None:
    without_measuring(monkeypatch)
    plan = make_plan(find_recipe("in22k_s"), SAMPLES["in22k_s"])
    assert plan.samples.splits == {"train": 14_126_136, "val": 70_986}  # half a percent, rounded up
    assert plan.samples.classes == 21_841


def test_a_changed_batch_scales_the_rate_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    without_measuring(monkeypatch)
    original = find_recipe("in1k_t")
    recipe = original.override(["--optim.batch_size", "1024", "--optim.accumulate", "2", "--trainer.nodes", "2"])
    plan = make_plan(recipe, SAMPLES["in1k_t"])
    assert plan.highest_lr == pytest.approx(1e-3)
    lines = "\n".join(describe(plan, original))
    assert "0.001 at most, the recipe's 0.004 scaled with the batch, 1024 instead of 4096" in lines
    assert "1024 = 2 machine(s) x 4 device(s) x 2 part(s) x 64 samples" in lines
    given = original.override(["--optim.lr", "0.01"])
    assert "0.01 at most, given; the recipe has 0.004" in "\n".join(
        describe(make_plan(given, SAMPLES["in1k_t"]), original)
    )
    with pytest.raises(UserError, match=r"expected a multiple of 24"):
        make_plan(original.override(["--trainer.devices", "3"]), SAMPLES["in1k_t"])


KINDS = ([], ["--optim.milestones", "[1,3]"], ["--optim.power", "1"], ["--optim.epoch_decay", "0.5"])


@pytest.mark.parametrize("warmup", [0.0, 1.5, 50.0])
@pytest.mark.parametrize("kind", KINDS)
def test_highest_and_last_rate_are_those_of_the_real_schedule(
    kind: list[str], warmup: float, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_measuring(monkeypatch)
    recipe = tiny.override(["--optim.warmup_epochs", str(warmup), *kind])
    plan = make_plan(recipe)
    optimizer = build_optimizer(nn.Linear(2, 2), recipe.optim)
    schedule = build_schedule(optimizer, recipe.optim, plan.steps_per_epoch)
    rates = []
    for _ in range(plan.steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert plan.highest_lr == pytest.approx(max(rates))
    assert plan.last_lr == pytest.approx(rates[-1])
    assert ("no longer than its warm-up" in "\n".join(describe(plan, recipe))) is (warmup == 50)


def test_memory_of_weights_and_optimiser_by_counting(tiny: Recipe) -> None:
    plan = make_plan(tiny)
    model = tiny.model.build(3, "abc")
    elements = sum(p.numel() for p in model.parameters())
    tensors = len(list(model.parameters()))
    assert plan.parameters == elements
    assert plan.memory.parameters == plan.memory.gradients == 4 * elements
    assert plan.memory.optimizer == 2 * 4 * elements + 4 * tensors  # two moments, and a step count for each tensor
    assert plan.memory.average == 4 * elements + sum(b.nbytes for b in model.buffers())
    assert sum(group.count for group in plan.groups) == elements
    assert sum(group.tensors for group in plan.groups) == tensors
    assert {group.weight_decay for group in plan.groups} == {0.05, 0.0}
    double = make_plan(tiny.override(["--trainer.precision", "64-true", "--optim.ema", "0"]))
    assert double.memory.parameters == 8 * elements
    assert double.memory.average == 0


class Chain(nn.Module):
    """n times exp, each of which keeps its result for the backward pass, on four numbers a sample."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.length = length

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        x = maps.mean((1, 2, 3))[:, None] * self.weight
        for _ in range(self.length):
            x = x.exp()
        return x[:, :3]


@pytest.mark.parametrize("affordable", [True, False])
def test_activations_of_a_network_whose_peak_is_known(
    affordable: bool, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.override(["--optim.batch_size", "32", "--trainer.channels_last", "false"])
    monkeypatch.setattr(planning, "_build", lambda *_: Chain(500))
    measured = (32,) if affordable else planning.SMALL
    peak = planning._activations(recipe, 3, (3, 8, 8), 32, measured)
    kept = 500 * 32 * 4 * 4  # results of exp
    maps = 32 * 3 * 8 * 8 * 4
    assert kept + maps <= peak <= 1.05 * (kept + maps)


def test_extended_from_small_batches_is_nearly_measured(tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny.override(["--optim.mixup", "0.5"])
    whole = make_plan(recipe).memory
    monkeypatch.setattr(planning, "AFFORDABLE", 0)
    extended = make_plan(recipe).memory
    assert (whole.measured, extended.measured) == ((8,), (2, 4))
    assert extended.activations == pytest.approx(whole.activations, rel=0.05)


def test_activations_that_are_computed_again_take_time_instead_of_memory(tiny: Recipe) -> None:
    deep = ["--model.depths", "[6,1,1,1]", "--model.kernel_sizes", "[[3,3,3,3,3,3],[7],[7],[7]]"]
    kept = make_plan(tiny.override(deep))
    again = make_plan(tiny.override([*deep, "--trainer.checkpoint_activations", "true"]))
    assert again.memory.activations < 0.6 * kept.memory.activations
    assert (kept.factor, again.factor) == (3, 4)
    assert again.seconds(1) == pytest.approx(kept.seconds(1) * 4 / 3)


def test_macs_are_those_of_complexity_and_the_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    without_measuring(monkeypatch)
    recipe = find_recipe("in1k_a")
    plan = make_plan(recipe, SAMPLES["in1k_a"])
    merged = complexity(next(row for row in VARIANT_ROWS if row.label == "unireplknet_a")).macs
    # Training computes the parallel branches of each 13x13 layer as well: kernels 5, 7, 3, 3, 3.
    branches = sum(
        blocks * channels * side**2 * (25 + 49 + 3 * 9)
        for blocks, channels, side in ((2, 80, 28), (6, 160, 14), (2, 320, 7))
    )
    assert plan.macs == merged + branches
    assert plan.macs_per_epoch == plan.macs * 312 * 4096
    operations = 3 * 2 * plan.macs * 312 * 4096 * 300
    assert plan.seconds(tflops=10) == pytest.approx(operations / (4 * 10e12))
    assert plan.samples_per_second(tflops=10) == pytest.approx(300 * 312 * 4096 / plan.seconds(10))


def test_totals_and_sizes_add_up() -> None:
    assert Memory(1, 2, 3, 4, 5, (8,)).total == 15
    assert Samples(2, {"train": 10, "val": 3}).split(0.5).splits == {"train": 10, "val": 3}


def test_the_command_writes_nothing(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.save(tmp_path / "tiny.yaml")
    before = set(tmp_path.rglob("*"))
    assert main(["train", "tiny.yaml", "--dry-run", "--tflops", "0.5"]) == 0
    assert set(tmp_path.rglob("*")) == before
    out = capsys.readouterr().out
    for word in ("samples", "steps", "warm-up", "learning rate", "memory", "activations", "MACs", "0.5 TFLOP/s"):
        assert word in out
    assert "counted" in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dry-run", "--tflops", "0"], "--tflops is 0; expected more than 0"),
        (["--tflops", "3"], "--tflops belongs to --dry-run"),
        (["--dry-run", "--data", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_mistakes(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "in1k_a", *flags]) == 2
    assert message in capsys.readouterr().err


def test_no_weights_are_read(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("downloads")

    monkeypatch.setattr("unireplknet.load_weights", forbidden)
    without_measuring(monkeypatch)
    recipe = find_recipe("in1k384_s")
    with caplog.at_level(logging.WARNING):
        lines = "\n".join(describe(make_plan(recipe, SAMPLES["in1k384_s"]), recipe))
    assert "starts from DingXiaoH/UniRepLKNet/unireplknet_s_in22k_pretrain.pth, not read here" in lines
    assert recipe.model.weights
    assert not caplog.records


def test_the_plan_of_a_forecaster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = forecast_recipe(write_weather(tmp_path / "data"))
    plan = make_plan(recipe)
    model, data = _build(recipe, 2), recipe.data.load(recipe.input)
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    assert frozen
    assert plan.memory.parameters - plan.memory.gradients == frozen
    assert plan.samples == Samples(2, {name: len(split) for name, split in data.splits.items()}, assumed=False)
    assert plan.memory.activations > 0
    recipe.save(tmp_path / "breeze.yaml")
    assert main(["train", str(tmp_path / "breeze.yaml"), "--dry-run"]) == 0
    assert "2 stations (counted)" in capsys.readouterr().out


def test_a_step_that_is_too_much_is_not_measured(tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "UNAFFORDABLE", 0)
    plan = make_plan(tiny)
    assert (plan.memory.measured, plan.memory.activations) == ((), 0)
    lines = "\n".join(describe(plan, tiny))
    assert "not measured: a step is too much for a CPU" in lines
    assert "and the activations" in lines


class Spy(nn.Module):
    """Counts the MACs of convolutions and linear layers by the shapes that they are given and make."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.macs = 0
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.register_forward_hook(self.count)

    def count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            self.macs += output.numel() * module.in_features
        elif isinstance(module, nn.ConvTranspose2d):
            self.macs += inputs[0].numel() * module.weight[0].numel()
        else:
            self.macs += output.numel() * module.weight[0].numel()


def test_the_plan_of_a_segmenter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = runs.mask_recipe(runs.write_scenes(tmp_path / "data"), auxiliary=0.4)
    plan = make_plan(recipe)
    assert plan.samples == Samples(3, {"train": 6, "val": 3, "test": 3}, assumed=False)
    assert plan.shapes == ((3, 32, 32),)
    model = _build(recipe, 3).train()
    spy = Spy(model)
    model.forward_training(torch.randn(2, 3, 32, 32))
    assert plan.macs == pytest.approx(spy.macs / 2, rel=1e-3)
    assert plan.parameters == sum(p.numel() for p in model.parameters())
    assert plan.memory.measured == (2,)
    assert plan.memory.activations > 2 * 3 * 32 * 32 * 4
    recipe.save(tmp_path / "masks.yaml")
    assert main(["train", str(tmp_path / "masks.yaml"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "3 classes (counted)" in out
    assert "3 x 32 x 32" in out


@pytest.mark.parametrize("detector", ["mask_rcnn", "retinanet"])
def test_the_plan_of_a_detector(detector: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anchors = (16, 32, 64) if detector == "retinanet" else (8, 16, 32, 64)
    root = runs.write_objects(tmp_path / "data", 12, ((48, 64), (64, 48)))
    recipe = runs.box_recipe(root, detector=detector, anchors=anchors)
    recipe.augment.scale, recipe.augment.crop = (1.0, 1.0), 0.0
    plan = make_plan(recipe)
    assert plan.samples == Samples(2, {"train": 6, "val": 3, "test": 3}, assumed=False)
    assert plan.shapes == ((3, 64, 64), (3, 64, 64))  # 48 and 64 pixels are filled up to 64
    assert plan.memory.activations > 4 * 3 * 64 * 64 * 4
    model = _build(recipe, 2).train()
    spy = Spy(model)
    whole = {"boxes": torch.tensor([[0.0, 0.0, 64.0, 64.0]] * 40), "labels": torch.zeros(40, dtype=torch.int64)}
    whole["masks"] = torch.ones(40, 64, 64, dtype=torch.uint8)
    model([torch.randn(3, 64, 64)] * 2, [whole] * 2)  # more objects than boxes of them are learnt from
    assert plan.macs == pytest.approx(spy.macs / 2, rel=1e-3)
    recipe.save(tmp_path / "boxes.yaml")
    assert main(["train", str(tmp_path / "boxes.yaml"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "2 classes (counted)" in out
    assert ("without what the head for masks keeps" in out) is (detector == "mask_rcnn")


def test_maps_of_several_sizes_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_measuring(monkeypatch)
    root = runs.write_objects(tmp_path / "data", 24, ((48, 64), (48, 144)))
    recipe = runs.box_recipe(root).override(["--optim.batch_size", "1", "--input.long", "200"])
    recipe.augment.scale, recipe.augment.crop = (1.0, 1.0), 0.0
    plan = make_plan(recipe)
    assert set(plan.shapes) == {(3, 64, 64), (3, 64, 160)}
    wide = sum(shape[2] == 160 for shape in plan.shapes) / len(plan.shapes)
    single = [runs.box_recipe(runs.write_objects(tmp_path / str(w), 8, ((48, w),))) for w in (64, 144)]
    macs = []
    for each in single:
        each.augment.scale, each.augment.crop, each.input.long = (1.0, 1.0), 0.0, 200
        macs.append(make_plan(each).macs)
    assert macs[0] < macs[1]
    assert plan.macs == pytest.approx((1 - wide) * macs[0] + wide * macs[1], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "steps", "maps"),
    [("ade20k_t", 20_210 // 16 * 127, "3 x 512 x 512"), ("coco_t", 118_287 // 16 * 36, "3 x 800 x 1344, the largest")],
)
def test_published_trainings_are_planned_without_data(
    name: str, steps: int, maps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_measuring(monkeypatch)
    recipe = find_recipe(name)
    plan = make_plan(recipe, SAMPLES[name])
    assert plan.steps == steps
    lines = "\n".join(describe(plan, recipe))
    assert maps in lines
    assert "assumed" in lines
    assert plan.seconds(10) > 3600
