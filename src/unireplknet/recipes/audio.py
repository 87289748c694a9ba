"""Sound: the published training on Speech Commands, and recipes that run on a laptop."""

from __future__ import annotations

from unireplknet.modalities.audio import AudioAugment, AudioInput
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer


def keywords() -> Recipe:
    """Ten words spoken by a synthesiser, tested with voices that were not trained with."""
    return Recipe(
        "keywords",
        model=_small((16, 32, 64, 128)),
        data=Data("folder"),
        input=AudioInput(frames=96, mels=64, level="bands", span=60, std=2.0),
        augment=AudioAugment(speed=0.15, tempo=0.15, noise=0.1, time_mask=10, frequency_mask=8, shift=8),
        optim=Optim(epochs=12, lr=4e-3, warmup_epochs=1, ema=0.998),
        trainer=Trainer(select="loss"),
    )


def language() -> Recipe:
    """Spanish, French or Russian, tested with speakers and recordings that were not trained with."""
    return Recipe(
        "language",
        model=_small((24, 48, 96, 192)),
        data=Data("folder", val_fraction=0.1),
        input=AudioInput(
            rate=8000,
            frames=128,
            mels=40,
            low=100,
            high=3800,
            window=32,
            fill="repeat",
            span=50,
            level="bands",
            std=2.0,
        ),
        augment=AudioAugment(speed=0.3, tempo=0.2, noise=0.3, time_mask=16, frequency_mask=6),
        optim=Optim(epochs=30, lr=2e-3, warmup_epochs=2, mixup=0.4, ema=0.99),
        trainer=Trainer(select="loss"),
    )


def _small(dims: tuple[int, ...]) -> Model:
    return Model(
        "unireplknet_a",
        depths=(1, 1, 2, 1),
        dims=dims,
        kernel_sizes=((7,), (7,), (7, 7), (3,)),
        stem_stride=4,
        drop_path=0.1,
    )
