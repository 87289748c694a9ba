"""Image recipes that run on a laptop."""

from __future__ import annotations

from unireplknet.modalities.image import ImageAugment, ImageInput
from unireplknet.recipes.network import small_network
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer


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
        model=small_network((32, 64, 128, 256), stem_stride=2),
        data=Data("digits", val_fraction=0.15),
        input=ImageInput(size=16, channels=1, fit="squash", mean=(0.3,), std=(0.35,)),
        augment=ImageAugment(rotate=10, translate=0.08, zoom=0.1, shear=5),
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
