"""Image recipes that run on a laptop."""

from __future__ import annotations

from unireplknet.modalities.image import ImageAugment, ImageInput
from unireplknet.training.plan import Samples
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer

MNIST = Samples(classes=10, splits={"train": 60_000, "test": 10_000})


def digits() -> Recipe:
    """Handwritten digits of 8 x 8 pixels, built into scikit-learn.

    Command: unireplknet train digits
    Hardware: a CPU; two cores are enough.
    Time: a minute and a half.
    Score: 99.93% of the 25% test split, mean of seeds 0, 1, 2 (benchmarks/results/small_runs.json);
        1-nearest-neighbour: 98.44%. Run.
    """
    return Recipe(
        "digits",
        model=Model(
            "unireplknet_a",
            depths=(1, 1, 2, 1),
            dims=(32, 64, 128, 256),
            kernel_sizes=((7,), (7,), (7, 7), (3,)),
            stem_stride=2,
            drop_path=0.1,
        ),
        data=Data("digits", val_fraction=0.15),
        input=ImageInput(size=16, channels=1, fit="squash", mean=(0.3,), std=(0.35,)),
        augment=ImageAugment(rotate=10, translate=0.08, zoom=0.1, shear=5),
        optim=Optim(epochs=40, lr=4e-3, warmup_epochs=3, ema=0.99),
        trainer=Trainer(select="loss"),
    )


def mnist() -> Recipe:
    """Handwritten digits of 28 x 28 pixels: 60,000 to learn from, 10,000 to test with.

    Command: unireplknet fetch mnist && unireplknet train mnist --data data/mnist
    Hardware: a CPU; two cores are enough.
    Time: a quarter of an hour.
    Score: 99.46% of the test split, seed 0 (benchmarks/results/small_runs.json); 1-nearest-neighbour: 96.91%. Run.
    """
    return Recipe(
        "mnist",
        model=Model(
            "unireplknet_a",
            depths=(1, 1, 2, 1),
            dims=(16, 32, 64, 128),
            kernel_sizes=((7,), (7,), (7, 7), (3,)),
            stem_stride=2,
            drop_path=0.1,
        ),
        data=Data("mnist", val_fraction=0.05, workers=1),
        input=ImageInput(size=28, channels=1, fit="squash", mean=(0.13,), std=(0.31,)),
        augment=ImageAugment(rotate=10, translate=0.08, zoom=0.1, shear=5),
        optim=Optim(epochs=12, batch_size=128, lr=4e-3, warmup_epochs=1, ema=0.998),
        trainer=Trainer(select="loss"),
    )


def emoji() -> Recipe:
    """Colour emoji of one vendor in nine categories: 3,781 drawings, of which skin tones and genders stay together.

    Command: npm pack emoji-datasource-google && tar xf emoji-datasource-google-*.tgz
        && unireplknet train emoji --data package
    Hardware: a CPU; two cores are enough.
    Time: about ten minutes.
    Score: 77.9% on subjects that were held out (77.2 to 78.6, three seeds; extremely randomised trees 66.4%), mean over
        the classes 43.2%: most drawings are people. ``unireplknet evaluate RUN --data PATH`` with another vendor's
        package scores that vendor's drawings of the same subjects: 75.6% (74.1 to 76.8; trees 32.8%). Run:
        benchmarks/results/small_runs.json.
    """
    return Recipe(
        "emoji",
        model=Model(
            "unireplknet_a",
            depths=(1, 1, 3, 1),
            dims=(24, 48, 96, 192),
            kernel_sizes=((7,), (7,), (7, 7, 7), (3,)),
            stem_stride=2,
            drop_path=0.1,
        ),
        data=Data("emoji", val_fraction=0.15),
        input=ImageInput(size=48, fit="squash"),
        augment=ImageAugment(crop_scale=(0.5, 1.0), flip=0.5, rotate=15, fill=255, brightness=0.4),
        optim=Optim(epochs=40, lr=4e-3, warmup_epochs=3, ema=0.99),
        trainer=Trainer(select="loss"),
    )


def folder() -> Recipe:
    """Your own pictures, one folder a class, learnt from scratch.

    Command: unireplknet train folder --data PATH
    Hardware: a GPU, or patience: a step of 32 pictures takes seconds on two cores.
    Time: depends on the number of pictures.
    Score: depends on the pictures. Not run on a named data set.
    """
    return Recipe(
        "folder",
        model=Model("unireplknet_a", stem_stride=2, drop_path=0.1),
        data=Data("folder", workers=2),
        input=ImageInput(size=112),
        augment=ImageAugment(crop_scale=(0.3, 1.0), flip=0.5, policy="rand-m9-mstd0.5-inc1"),
        optim=Optim(epochs=100, batch_size=32, lr=1e-3, ema=0.998),
    )
