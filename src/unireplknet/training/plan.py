"""What a training will take, told before it is started: steps, learning rate, memory, arithmetic, hours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import mean
from typing import Any

import torch
from torch import nn

from unireplknet.data.dataset import Draw
from unireplknet.data.split import AnySplit
from unireplknet.deploy.benchmark import peak_bytes
from unireplknet.errors import UserError
from unireplknet.models.complexity import count_macs, count_params
from unireplknet.tasks.base import Shape, Workload
from unireplknet.training.loader import build_loader, steps_per_epoch
from unireplknet.training.optim import build_optimizer, lr_factor, warmup_steps
from unireplknet.training.recipe import Recipe

AFFORDABLE = 5e10
"""MACs of a step that is measured as it is: some seconds of one CPU core."""

UNAFFORDABLE = 5e12
"""MACs from which a step is not measured at all: many minutes, and more memory than a CPU may have."""

SMALL = (2, 4)
"""Batches measured in place of a larger one: pairs for mixup, and activations outweigh what does not grow with them."""

LOOKED = 16
"""Training samples whose sizes are looked at, where they have several."""

PUBLISHED_SPEEDS = {
    12: "what an independent retraining of S in float32 comes to, A800",
    46: "what table 18 of the paper comes to for S, A100",
    100: "assumed, for bf16 on a newer card",
}
"""Sustained TFLOP/s of one device, and where the figure comes from. Small variants reach less: see their recipes."""


@dataclass(frozen=True)
class Samples:
    """How much there is to learn from.

    Attributes:
        classes: Number of classes; of forecasts, of stations.
        splits: Samples of each split.
        assumed: Whether these are published counts and nobody has looked at the data.
    """

    classes: int
    splits: dict[str, int]
    assumed: bool = True

    def split(self, val_fraction: float) -> Samples:
        """With a val split set aside, where there is none."""
        if "val" in self.splits:
            return self
        val = math.ceil(val_fraction * self.splits["train"])  # as scikit-learn rounds
        splits = {"train": self.splits["train"] - val, "val": val} | {
            k: v for k, v in self.splits.items() if k != "train"
        }
        return Samples(self.classes, splits, self.assumed)


@dataclass(frozen=True)
class Group:
    """Parameters that share a weight decay.

    Attributes:
        weight_decay: The decay.
        count: Number of parameters.
        tensors: Number of tensors.
        lr_scales: Lowest and highest factor on the learning rate.
    """

    weight_decay: float
    count: int
    tensors: int
    lr_scales: tuple[float, float]


@dataclass(frozen=True)
class Memory:
    """Bytes that a device holds in training.

    Attributes:
        parameters: The weights.
        gradients: As much again of those that learn, once they have all accumulated.
        optimizer: AdamW's moments after a step.
        average: The running average of weights and statistics.
        activations: Peak of forward, loss and backward beside all of these.
        measured: Batches on which the activations were measured; one, or two from which they are extended, or none
            where a step is too much for a CPU.
    """

    parameters: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    measured: tuple[int, ...]

    @property
    def total(self) -> int:
        """All of it: an upper bound, since most activations are gone when the last gradients come."""
        return self.parameters + self.gradients + self.optimizer + self.average + self.activations


@dataclass(frozen=True)
class Plan:
    """What a recipe comes to.

    Attributes:
        recipe: The recipe.
        samples: The data.
        steps_per_epoch: Optimiser steps in an epoch.
        parameters: Parameters in training form.
        groups: Parameters by weight decay.
        memory: Memory of a device.
        macs: Multiply-accumulates of one map, forward, in training form: a mean over ``shapes``.
        shapes: Shapes of the maps of some batches; one, where all are alike.
    """

    recipe: Recipe
    samples: Samples
    steps_per_epoch: int
    parameters: int
    groups: tuple[Group, ...]
    memory: Memory
    macs: int
    shapes: tuple[Shape, ...]

    @property
    def devices(self) -> int:
        """Devices on all machines."""
        return self.recipe.trainer.devices * self.recipe.trainer.nodes

    @property
    def device_batch(self) -> int:
        """Samples that a device takes at a time."""
        return self.recipe.optim.device_batch(self.devices)

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.steps_per_epoch * self.recipe.optim.epochs

    @property
    def warmup(self) -> int:
        """Steps in which the learning rate rises."""
        return warmup_steps(self.recipe.optim, self.steps_per_epoch)

    @property
    def highest_lr(self) -> float:
        """The highest rate of any step: less than optim.lr where the warm-up is as long as the run."""
        factor, last_of_rise = lr_factor(self.recipe.optim, self.steps_per_epoch), min(self.warmup, self.steps - 1)
        return self.recipe.optim.lr * max(map(factor, range(last_of_rise + 1)))

    @property
    def last_lr(self) -> float:
        """The rate of the last step."""
        return self.recipe.optim.lr * lr_factor(self.recipe.optim, self.steps_per_epoch)(self.steps - 1)

    @property
    def samples_per_epoch(self) -> int:
        """Samples that the steps of an epoch take."""
        return min(self.samples.splits["train"], self.steps_per_epoch * self.recipe.optim.batch_size)

    @property
    def macs_per_epoch(self) -> int:
        """Multiply-accumulates of an epoch's samples, forward only."""
        return self.macs * self.samples_per_epoch

    @property
    def factor(self) -> int:
        """Cost of training in forward passes: the backward pass takes two, computing activations again another."""
        return 4 if self.recipe.trainer.checkpoint_activations else 3

    def samples_per_second(self, tflops: float) -> float:
        """Samples that all devices learn from in a second, and the loaders have to deliver.

        Args:
            tflops: 10^12 floating-point operations a second that each device sustains; a MAC is two operations.
        """
        return self.devices * tflops * 1e12 / (2 * self.factor * self.macs)

    def seconds(self, tflops: float) -> float:
        """Duration of all training steps, without validation, where each device sustains ``tflops``."""
        return self.recipe.optim.epochs * self.samples_per_epoch / self.samples_per_second(tflops)


def make_plan(recipe: Recipe, published: Samples | None = None) -> Plan:
    """Work out what a training will take. Nothing is written, and no weights are downloaded.

    Args:
        recipe: What to train.
        published: Size of its data, for want of a path.

    Raises:
        UserError: The recipe contradicts itself or the data.
    """
    work = recipe.task.workload(recipe)
    if recipe.data.path or published is None:
        data = recipe.data.load(recipe.input)
        samples = Samples(len(data.names), {k: len(v) for k, v in data.splits.items()}, assumed=False)
        shapes = _map_shapes(recipe, data.splits["train"], work)
    else:
        samples = published.split(recipe.data.val_fraction)
        shapes = [work.largest]
    batch = recipe.optim.device_batch(recipe.trainer.devices * recipe.trainer.nodes)
    with torch.device("meta"):
        model = _build(recipe, samples.classes)
    counts = {shape: count_macs(model.train(), shape, work.forward(model)) for shape in set(shapes)}
    macs, largest = round(mean(counts[shape] for shape in shapes)), max(shapes, key=math.prod)
    measured = _affordable(counts[largest], batch, least=work.smallest_batch)
    groups, optimizer = _optimizer_of(model, recipe)
    weights = sum(p.nbytes for p in model.parameters())
    average = weights + sum(b.nbytes for b in model.buffers())
    return Plan(
        recipe,
        samples,
        steps_per_epoch(recipe, range(samples.splits["train"])),
        count_params(model),
        groups,
        Memory(
            parameters=weights,
            gradients=sum(p.nbytes for p in model.parameters() if p.requires_grad),
            optimizer=optimizer,
            average=average if recipe.optim.ema else 0,
            activations=_activations(recipe, samples.classes, largest, batch, measured),
            measured=measured,
        ),
        macs,
        tuple(shapes),
    )


def _map_shapes(recipe: Recipe, split: AnySplit, work: Workload) -> list[Shape]:
    """Shapes of the maps of some training batches, one where all are alike.

    The loader complains as it would in a run.
    """
    world = recipe.trainer.devices * recipe.trainer.nodes
    dataset = build_loader(recipe, split, augment=True, world=world).dataset
    samples = (dataset[Draw(0, index)] for index in range(len(split)))
    read = (sample for sample in samples if sample.map is not None)
    shapes = [tuple(sample.map.shape) for sample in islice(read, LOOKED if work.batch_shape else 1)]
    if not shapes:
        raise UserError(
            f"none of the training samples could be read; the last: {dataset[Draw(0, len(split) - 1)].problem}"
        )
    if work.batch_shape is None:
        return shapes
    size = recipe.optim.device_batch(world)
    return [work.batch_shape(shapes[start : start + size]) for start in range(0, len(shapes), size)]


def _affordable(macs: int, batch: int, least: int) -> tuple[int, ...]:
    """Batches of at least some samples to measure a step of ``macs`` a map on; none where it is too much for a CPU."""
    whole = batch >= least and (batch in SMALL or 3 * macs * batch <= AFFORDABLE)
    measured = (batch,) if whole else SMALL
    return measured if 3 * macs * max(measured) <= UNAFFORDABLE else ()


def _build(recipe: Recipe, classes: int) -> Any:
    """The network, with random weights."""
    model = replace(recipe, model=replace(recipe.model, weights="")).build([str(i) for i in range(classes)])
    if recipe.trainer.checkpoint_activations:
        model.set_grad_checkpointing(True)
    return model.double() if recipe.trainer.precision == "64-true" else model


def _optimizer_of(model: nn.Module, recipe: Recipe) -> tuple[tuple[Group, ...], int]:
    """Groups of parameters, and bytes of the optimiser's state after a step of a network on the meta device."""
    optim = recipe.optim
    optimizer = build_optimizer(model, optim)
    groups = []
    for decay in sorted({group["weight_decay"] for group in optimizer.param_groups}, reverse=True):
        same = [group for group in optimizer.param_groups if group["weight_decay"] == decay]
        parameters = [p for group in same for p in group["params"]]
        scales = [group["lr"] / optim.lr for group in same]
        count = sum(p.numel() for p in parameters)
        groups.append(Group(decay, count, len(parameters), (min(scales), max(scales))))
    for p in filter(_learns, model.parameters()):
        p.grad = torch.empty_like(p)
    optimizer.step()
    return tuple(groups), sum(value.nbytes for state in optimizer.state.values() for value in state.values())


def _activations(recipe: Recipe, classes: int, shape: Shape, batch: int, measured: Sequence[int]) -> int:
    """Peak bytes of forward, loss and backward on the CPU, without the gradients of the weights, which come on top."""
    if not measured:
        return 0
    learner = recipe.task.learner(_build(recipe, classes), recipe, classes, steps_per_epoch=1).train()
    for p in filter(_learns, learner.parameters()):
        p.register_post_accumulate_grad_hook(_drop_gradient)
    dtype = torch.float64 if recipe.trainer.precision == "64-true" else torch.float32
    low = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(recipe.trainer.precision)

    def peak(count: int) -> int:
        labels = learner.blank_labels(count, shape)

        def step() -> None:
            maps = torch.randn(count, *shape, dtype=dtype)
            with torch.autocast("cpu", low, enabled=low is not None):
                loss = learner.objective(maps, labels)
            loss.backward()

        return peak_bytes(step)

    if len(measured) == 1:
        return peak(batch)
    (few, more), (least, most) = measured, map(peak, measured)
    return least + (batch - few) * (most - least) // (more - few)


def _learns(parameter: torch.Tensor) -> bool:
    return parameter.requires_grad


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def describe(plan: Plan, original: Recipe, tflops: float | None = None) -> list[str]:
    """A plan in words.

    Args:
        plan: The plan.
        original: The recipe before anything was changed in it, to say what became of its learning rate.
        tflops: What each device sustains; by default a few figures from elsewhere.
    """
    recipe, optim, memory = plan.recipe, plan.recipe.optim, plan.memory
    counts = ", ".join(f"{count:,} {name}" for name, count in plan.samples.splits.items())
    work = recipe.task.workload(recipe)
    source = "assumed: published sizes, --data PATH counts" if plan.samples.assumed else "counted"
    left = plan.samples.splits["train"] - plan.samples_per_epoch
    name = recipe.model.row or recipe.model.name
    rows = [
        ("samples", f"{counts}; {plan.samples.classes:,} {recipe.task.outputs} ({source})"),
        ("batch", f"{optim.batch_size} = {_product(plan)}"),
        ("steps", f"{plan.steps:,} = {plan.steps_per_epoch:,} an epoch x {optim.epochs} epochs"),
        ("", f"{left:,} samples an epoch are left over, other ones each time" if left else ""),
        ("warm-up", f"{plan.warmup:,} steps = {optim.warmup_epochs:g} epochs"),
        ("learning rate", f"{plan.highest_lr:g} at most, {_origin(plan, original)}; {plan.last_lr:.3g} at the end"),
        ("maps", _maps(plan, work)),
        ("network", f"{name}, {plan.parameters:,} parameters in training form"),
        ("", f"starts from {recipe.model.weights}, not read here" if recipe.model.weights else ""),
        *(("", _group(group)) for group in plan.groups),
        ("memory", "of each device" + (", before fsdp divides it" if recipe.trainer.strategy == "fsdp" else "")),
        ("  parameters", _size(memory.parameters)),
        ("  gradients", _size(memory.gradients)),
        ("  optimiser", _size(memory.optimizer)),
        ("  average", _size(memory.average) if memory.average else "none (optim.ema is 0)"),
        ("  activations", _activations_of(plan, work)),
        ("  together", _together(plan, work)),
        ("arithmetic", f"{plan.macs_per_epoch:.3g} MACs an epoch forward, {plan.macs / 1e9:.3g} G a sample;"),
        ("", work.counted),
        ("", f"training takes {plan.factor} times as many: {_passes(plan)}"),
    ]
    lines = [f"{title:14} {text}" for title, text in rows if text]
    return [*lines, *_speeds(plan, [tflops] if tflops else list(PUBLISHED_SPEEDS), given=tflops is not None)]


def _maps(plan: Plan, work: Workload) -> str:
    channels, height, width = max(plan.shapes, key=math.prod)
    size = f"{channels} x {height} x {width}"
    if work.batch_shape is None:
        return size
    if plan.samples.assumed:
        return f"{size}, the largest: others need less, --data PATH looks at some"
    return f"{size}, the largest of {len(plan.shapes)} batch(es), for memory; arithmetic is the mean"


def _product(plan: Plan) -> str:
    trainer, parts = plan.recipe.trainer, plan.recipe.optim.accumulate
    machines = f"{trainer.nodes} machine(s) x " if trainer.nodes > 1 else ""
    return f"{machines}{trainer.devices} device(s) x {parts} part(s) x {plan.device_batch} samples"


def _origin(plan: Plan, original: Recipe) -> str:
    optim, before = plan.recipe.optim, original.optim
    if plan.highest_lr < optim.lr:
        why = "the run is no longer than its warm-up" if plan.warmup >= plan.steps else "it falls before it has risen"
        return f"less than optim.lr {optim.lr:g} because {why}"
    if optim.lr == before.lr:
        return "as in the recipe"
    if math.isclose(optim.lr, before.lr * optim.batch_size / before.batch_size):
        return f"the recipe's {before.lr:g} scaled with the batch, {optim.batch_size} instead of {before.batch_size}"
    return f"given; the recipe has {before.lr:g}"


def _group(group: Group) -> str:
    low, high = group.lr_scales
    scale = f"learning rate x {high:g}" if low == high else f"learning rate x {low:.3g} to {high:.3g}"
    return f"{group.count:,} in {group.tensors} tensors: weight decay {group.weight_decay:g}, {scale}"


def _activations_of(plan: Plan, work: Workload) -> str:
    if not plan.memory.measured:
        return "not measured: a step is too much for a CPU"
    without = f", without {work.unmeasured}" if work.unmeasured else ""
    return f"{_size(plan.memory.activations)}, {_how_measured(plan)}{without}"


def _together(plan: Plan, work: Workload) -> str:
    memory = plan.memory
    if not memory.measured:
        return f"{_size(memory.total)} and the activations"
    if work.unmeasured:
        return f"{_size(memory.total)} and {work.unmeasured}"
    return f"{_size(memory.total)} at most, beside the work space of the libraries"


def _how_measured(plan: Plan) -> str:
    if plan.memory.measured == (plan.device_batch,):
        return f"measured on one step of {plan.device_batch} here, on the CPU"
    batches = " and ".join(map(str, plan.memory.measured))
    return f"measured on one step of {batches} each here, on the CPU, and extended linearly to {plan.device_batch}"


def _passes(plan: Plan) -> str:
    again = ", 1 to compute activations again" if plan.recipe.trainer.checkpoint_activations else ""
    return f"1 forward, 2 backward{again}"


def _speeds(plan: Plan, speeds: Sequence[float], given: bool) -> list[str]:
    choose = "" if given else " (--tflops X takes another)"
    lines = [f"{'hours':14} of all steps on {plan.devices} device(s), if each sustains{choose}"]
    for speed in speeds:
        seconds, rate = plan.seconds(speed), plan.samples_per_second(speed)
        note = "" if given else f"  ({PUBLISHED_SPEEDS[int(speed)]})"
        time = f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds:.3g} s"
        lines.append(f"{'':14} {speed:g} TFLOP/s: {time}, {rate:,.0f} samples/s from the loaders{note}")
    return lines


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
