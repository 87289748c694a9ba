"""The parts of a recipe that are the same for all modalities, and what they make: network, data, schedule, trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

import unireplknet
from unireplknet import UniRepLKNet
from unireplknet.data.split import DataSet
from unireplknet.errors import UserError, nearest, shorten
from unireplknet.modalities.base import Input
from unireplknet.models.published import ABLATION_ROWS
from unireplknet.nn.batch_stats import synchronise_batch_norms
from unireplknet.registry import SOURCES


@dataclass
class Model:
    """The network.

    Args:
        name: A registered variant.
        row: A row of the paper's design tables instead, as `unireplknet info --ablations` names it.
        weights: File, run or Hub id of weights to start from; empty starts from random numbers.
        num_classes: Number of classes; 0 takes it from the data.
        depths: Blocks of each of the four stages; empty keeps the variant's, as below.
        dims: Channels of each stage.
        kernel_sizes: Kernel size of each block, one list a stage.
        stem_stride: Downscaling before the first stage: 4, 2 or 1.
        drop_path: Probability of skipping the last block of the network; earlier ones linearly less.
        drop: Dropout before the classifier.
        head_init_scale: Factor on the classifier's first weights; small where the rest is trained already.
    """

    name: str = "unireplknet_a"
    row: str = ""
    weights: str = ""
    num_classes: int = 0
    depths: tuple[int, ...] = ()
    dims: tuple[int, ...] = ()
    kernel_sizes: tuple[tuple[int, ...], ...] = ()
    stem_stride: Literal[1, 2, 4] = 4
    drop_path: float = 0.0
    drop: float = 0.0
    head_init_scale: float = 1.0

    def build(self, in_chans: int, classes: Sequence[str]) -> UniRepLKNet:
        """Construct the network for maps of ``in_chans`` channels.

        Raises:
            UserError: The settings contradict each other or the data.
        """
        self.check_classes(classes)
        kwargs = {
            "in_chans": in_chans,
            "num_classes": len(classes),
            "drop_path_rate": self.drop_path,
            "drop_rate": self.drop,
            "stem_stride": self.stem_stride,
            "head_init_scale": self.head_init_scale,
        } | self.shape()
        try:
            if self.row:
                model = UniRepLKNet(**(self._row_kwargs() | kwargs))
            else:
                model = unireplknet.create_model(self.name, **kwargs)
            if self.weights:
                unireplknet.load_weights(model, self.weights)
        except UserError:
            raise
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(f"model {self.row or self.name}: {error}") from error
        return model

    def check_classes(self, classes: Sequence[str]) -> None:
        """See that the number of classes that was asked for is that of the data.

        Raises:
            UserError: It is not.
        """
        if self.num_classes not in (0, len(classes)):
            raise UserError(
                f"model.num_classes is {self.num_classes}, the data have {len(classes)} classes"
                f" ({shorten(classes)}); leave it at 0 to follow the data"
            )

    def shape(self) -> dict[str, Any]:
        """Arguments of the network that differ from the variant's."""
        return {name: value for name in ("depths", "dims", "kernel_sizes") if (value := getattr(self, name))}

    def _row_kwargs(self) -> dict[str, Any]:
        rows = {row.label: row.kwargs for row in ABLATION_ROWS}
        if self.row not in rows:
            hint = nearest(self.row, rows) or "; unireplknet info --ablations names them"
            raise UserError(f"model.row is {self.row!r}, which is no row of the design tables{hint}")
        return rows[self.row]


@dataclass
class Data:
    """The samples and their division.

    Args:
        source: What lies there: "folder" (one folder a class), "shards" (tar files made by `unireplknet pack` or for
            webdataset), or another name of :data:`unireplknet.registry.SOURCES`.
        path: Where the samples lie; --data PATH is short for it.
        test_fraction: Part of the data to test with, where the source is not divided already.
        val_fraction: Part of the training samples to choose the epoch with, where the source has no val folder.
        split_seed: Seed of these divisions; the seed of training does not change them.
        window: Shards whose samples are mixed with one another before the next ones are read, for disks that read far
            apart slowly; 0 mixes all.
        workers: Processes that prepare samples; 0 prepares them in the main process.
        max_unreadable: How many samples may be unreadable, and left out, before the run stops.
    """

    source: str = "folder"
    path: str = ""
    test_fraction: float = 0.25
    val_fraction: float = 0.1
    split_seed: int = 0
    window: int = 0
    workers: int = 0
    max_unreadable: int = 100

    def load(self, inputs: Input) -> DataSet:
        """Find the samples and divide them into train, val and test.

        Raises:
            UserError: There is no such source, or it is not what the path holds.
        """
        source = SOURCES.find(self.source, "data.source")
        if not self.path and getattr(source, "needs_path", True):
            raise UserError(f"data.source {self.source!r} needs a path: add --data PATH")
        data = source(Path(self.path), inputs)
        return data.split(self.val_fraction, self.test_fraction, self.split_seed)


@dataclass
class Optim:
    """How the weights are found: AdamW, linear warm-up, then a cosine or a steady decay.

    Args:
        epochs: Passes over the training samples.
        batch_size: Samples a step, on all devices together. A flag or file that changes it scales lr with it.
        accumulate: Parts in which each device works its share of a step off, to need less memory.
        lr: Highest learning rate.
        min_lr: Learning rate at the end.
        warmup_epochs: Epochs in which the learning rate rises linearly to lr.
        power: Power of a polynomial decay of the learning rate, 1 for a straight line, instead of the cosine; 0 for
            the cosine.
        epoch_decay: Factor on the learning rate from each epoch to the next, instead of the cosine; 0 for the cosine.
        steady_epochs: Epochs at the full learning rate before that decay.
        milestones: Epochs after which the learning rate falls to a tenth, instead of the cosine; empty for the cosine.
        betas: Decay of AdamW's running means of gradients and of their squares.
        weight_decay: Decay of matrices and kernels; biases and other vectors have none.
        decay_grn: Whether GRN's gamma and beta decay too, as in the published trainings.
        layer_decay: Factor on the learning rate from each block to the one before it; 1 for the same everywhere.
        clip_grad: Largest norm of the gradient; 0 for no limit.
        loss: "cross_entropy", or "bce" (binary cross-entropy of each class), which several classes a sample need.
        label_smoothing: Part of the target spread over all classes.
        mixup: Alpha of mixup, which blends pairs of samples; 0 for none.
        cutmix: Alpha of cutmix, which pastes a rectangle of one into the other; 0 for none.
        mix_switch: Part of the batches that take cutmix, where both are wanted.
        mix_prob: Part of the batches that are mixed at all.
        ema: Decay a step of the running average of the weights that is evaluated and kept, less in the first steps; 0
            for none.
    """

    epochs: int = 100
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 1e-3
    min_lr: float = 1e-6
    warmup_epochs: float = 5.0
    power: float = 0.0
    epoch_decay: float = 0.0
    steady_epochs: int = 1
    milestones: tuple[int, ...] = ()
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    decay_grn: bool = False
    layer_decay: float = 1.0
    clip_grad: float = 0.0
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_switch: float = 0.5
    mix_prob: float = 1.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"optim.{name} is {getattr(self, name)}; expected at least 1")

    def device_batch(self, devices: int) -> int:
        """Samples that a device takes at a time.

        Raises:
            UserError: The batch cannot be divided evenly.
        """
        parts = devices * self.accumulate
        if self.batch_size % parts:
            raise UserError(
                f"optim.batch_size is {self.batch_size}, which {devices} device(s) in {self.accumulate} part(s)"
                f" cannot share evenly; expected a multiple of {parts}"
            )
        return self.batch_size // parts


@dataclass
class Trainer:
    """How the work is carried out.

    Args:
        seed: Seed of the first weights, the order of samples and the augmentation.
        select: The score on the val split that chooses the best epoch, such as "loss", "accuracy", or another one that
            the task computes; "last" takes the last epoch, for a val split too small to tell. Empty takes the task's
            first.
        precision: The arithmetic, as Lightning calls it.
        accelerator: Where to compute; "auto" takes the best there is.
        devices: How many devices to use on each machine.
        nodes: How many machines, each started by torchrun or SLURM.
        strategy: How devices work together: "ddp" gives each the whole network, "fsdp" a part of it (not run); "auto"
            is ddp where there are several.
        compile: Compile the network with torch.compile, which takes minutes at first and saves time at every step; or
            the compiler's mode: "reduce-overhead" uses CUDA graphs, the fastest way to train on a GPU.
        checkpoint_activations: Compute each block a second time in the backward pass instead of keeping its maps.
        sync_batchnorm: Take batch statistics over all devices, for small batches on each.
        channels_last: Keep the channels of a pixel side by side in memory, which most devices compute faster.
        progress: Show a progress bar in a terminal; without one, each epoch is a line in the log.
        save_minutes: Time between states saved within an epoch, for going on after a crash; 0 saves every step.
    """

    seed: int = 0
    select: str = ""
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    compile: bool | Literal["reduce-overhead", "max-autotune"] = False
    checkpoint_activations: bool = False
    sync_batchnorm: bool = False
    channels_last: bool = True
    progress: bool = True
    save_minutes: float = 10.0

    def prepare(self, model: nn.Module) -> None:
        """Set a network up for the way in which it is to be trained, in place."""
        if self.sync_batchnorm:
            synchronise_batch_norms(model)
        if self.checkpoint_activations:
            model.set_grad_checkpointing(True)  # type: ignore[operator]
        if self.compile:
            model.compile(mode=None if self.compile is True else self.compile)


@dataclass
class Head:
    """What the task makes of the features: nothing to be set."""
