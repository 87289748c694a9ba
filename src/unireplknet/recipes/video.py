"""Video recipes."""

from __future__ import annotations

from unireplknet.modalities.video import VideoAugment, VideoInput
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer


def k400() -> Recipe:
    """Kinetics-400 as published: UniRepLKNet-S from random weights, 16 frames of 224 as one map of 896 x 896.

    Model and kernels are the paper's. The authors' script differs: it builds B with kernels of 11 in the last stage
    (97 million parameters), and reshapes memory instead of laying frames side by side. It also uses every clip twice,
    in two augmentations, which is left out here. Evaluation averages 5 clips x 3 crops.

    Command: unireplknet train k400 --data PATH   (videos, and train.csv, val.csv as Kinetics has them)
    Hardware: 8 GPUs.
    Time: not known; an epoch is 240,000 clips of 145 GMACs each.
    Score: 54.8% top-1 (journal version, table 9). Not run.
    """
    return Recipe(
        "k400",
        model=Model("unireplknet_s", drop_path=0.4),
        data=Data("kinetics", workers=10, max_unreadable=10_000),
        input=VideoInput(clips=5, crops=3, short="repeat"),
        augment=VideoAugment(
            crop_scale=(0.08, 1.0), flip=0.5, policy="rand-m7-n4-mstd0.5-inc1", erase=0.25, erase_with="noise"
        ),
        optim=Optim(
            epochs=90,
            batch_size=64,
            accumulate=2,
            lr=1e-3,  # 4e-3 a batch of 256
            min_lr=2.5e-7,
            warmup_epochs=5,
            mixup=0.8,
            cutmix=1.0,
            decay_grn=True,
        ),
        trainer=Trainer(devices=8, precision="bf16-mixed"),
    )


ALL = (k400,)
