"""A small image tree and a recipe that learns it in a second or two."""

from pathlib import Path

import numpy as np
from PIL import Image

from unireplknet.modalities.image import ImageAugment, ImageInput
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer

COLOURS = {"blue": (30, 30, 220), "green": (30, 220, 30), "red": (220, 30, 30)}


def write_tree(root: Path, count: int = 16) -> Path:
    """One folder a colour, noisy pictures of odd sizes, and among the red ones a file that is no picture."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            noise = rng.normal(colour, 25, (9 + i % 3, 11, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(root / name / f"{i:02}.png")
    (root / "red" / "broken.png").write_bytes(b"this is not a picture")
    return root


def tiny_recipe(path: Path, epochs: int = 3) -> Recipe:
    """Learns the tree."""
    return Recipe(
        "tiny",
        model=Model("test_unireplknet", stem_stride=1, dims=(8, 8, 16, 16)),
        data=Data("folder", str(path), val_fraction=0.25),
        input=ImageInput(size=8, fit="squash"),
        augment=ImageAugment(flip=0.5, translate=0.1),
        optim=Optim(epochs=epochs, batch_size=8, lr=1e-2, warmup_epochs=1, ema=0.5),
        trainer=Trainer(select="loss", progress=False, accelerator="cpu"),
    )
