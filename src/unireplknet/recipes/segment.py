"""Semantic segmentation: ADE20K as published, and images with masks of your own.

Settings of ADE20K are those of the journal version's appendix B and of the authors' configurations: UPerNet, 160,000
steps of 16 crops, AdamW, a straight decay of the learning rate after 1,500 steps of warm-up, an auxiliary head with
weight 0.4, synchronised batch statistics. What differs: steps are counted in whole epochs (127 of 1,263 steps are
160,401); layer-wise decay counts every block, not groups of blocks; the decoder's convolutions are
segmentation-models-pytorch's and have no dropout, the auxiliary head is torchvision's; the loss is a mean over the
pixels that count, and hue changes half as much; sides of images to be scored are not rounded to multiples of 32.

The val split is ADE20K's validation part. It chooses nothing: the last epoch is kept. While a training goes on,
val/miou is of the middles of the images; ``unireplknet evaluate RUN`` scores them whole, and with ``--multi-scale`` at
several sizes and mirrored.

None of the ADE20K recipes has been run by this project, and hours are not estimated. They start from the authors'
weights for ImageNet.
"""

from __future__ import annotations

from unireplknet.recipes.imagenet import RELEASED
from unireplknet.tasks.segment.inputs import SegmentAugment, SegmentInput
from unireplknet.tasks.segment.task import SegmentHead
from unireplknet.training.plan import Samples
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer

ADE20K = Samples(150, {"train": 20_210, "val": 2_000})


def ade20k_t() -> Recipe:
    """ADE20K with UPerNet and UniRepLKNet-T at 512 pixels.

    Command: unireplknet train ade20k_t --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 48.6% mIoU, multi-scale 49.1% (journal version, table 7). Not run.
    """
    return _ade20k("ade20k_t", "t", "in1k_224_acc83.21", drop_path=0.2, layer_decay=1.0)


def ade20k_s() -> Recipe:
    """ADE20K with UPerNet and UniRepLKNet-S at 512 pixels.

    Command: unireplknet train ade20k_s --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 50.5% mIoU, multi-scale 51.0% (journal version, table 7). Not run.
    """
    return _ade20k("ade20k_s", "s", "in1k_224_acc83.91", drop_path=0.3, layer_decay=0.9)


def ade20k_s_in22k() -> Recipe:
    """ADE20K with UPerNet and UniRepLKNet-S at 512 pixels, pretrained on ImageNet-22K.

    Command: unireplknet train ade20k_s_in22k --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 51.9% mIoU, multi-scale 52.7% (journal version, table 7, which prints 640 pixels; the authors' README
        corrects it to 512). Not run.
    """
    return _ade20k("ade20k_s_in22k", "s", "in22k_to_in1k_384_acc86.44", drop_path=0.3, layer_decay=0.9)


def ade20k_s_in22k_640() -> Recipe:
    """ADE20K with UPerNet and UniRepLKNet-S at 640 pixels, pretrained on ImageNet-22K.

    Command: unireplknet train ade20k_s_in22k_640 --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 52.3% mIoU, multi-scale 52.7% (the authors' README). Not run.
    """
    return _ade20k("ade20k_s_in22k_640", "s", "in22k_to_in1k_384_acc86.44", drop_path=0.3, layer_decay=0.9, size=640)


def ade20k_b_in22k() -> Recipe:
    """ADE20K with UPerNet and UniRepLKNet-B at 640 pixels, pretrained on ImageNet-22K.

    Command: unireplknet train ade20k_b_in22k --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 53.5% mIoU, multi-scale 53.9% (journal version, table 7). Not run.
    """
    return _ade20k("ade20k_b_in22k", "b", "in22k_to_in1k_384_acc87.40", drop_path=0.3, layer_decay=0.9, size=640)


def ade20k_l_in22k() -> Recipe:
    """ADE20K with UPerNet and UniRepLKNet-L at 640 pixels, pretrained on ImageNet-22K.

    Command: unireplknet train ade20k_l_in22k --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 54.5% mIoU, multi-scale 55.1% (journal version, table 7; the authors' README has 55.0%). Not run.
    """
    return _ade20k("ade20k_l_in22k", "l", "in22k_to_in1k_384_acc87.88", drop_path=0.4, layer_decay=0.85, size=640)


def ade20k_xl_in22k() -> Recipe:
    """ADE20K with UPerNet and UniRepLKNet-XL at 640 pixels, pretrained on ImageNet-22K.

    The authors published no configuration of this size; drop path and layer-wise decay are those of L.

    Command: unireplknet train ade20k_xl_in22k --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 55.2% mIoU, multi-scale 55.6% (journal version, table 7). Not run.
    """
    return _ade20k("ade20k_xl_in22k", "xl", "in22k_to_in1k_384_acc87.96", drop_path=0.4, layer_decay=0.85, size=640)


def masks() -> Recipe:
    """Your own pictures with masks, learnt from scratch by a small network under U-Net's decoder.

    Command: unireplknet train masks --data PATH
    Hardware: a GPU, or patience.
    Time: depends on the number of pictures.
    Score: depends on the pictures. Not run on a named data set.
    """
    return Recipe(
        "masks",
        model=Model("unireplknet_a", stem_stride=2, drop_path=0.1),
        head=SegmentHead("unet", 128),
        data=Data("masks", workers=2, max_unreadable=0),
        input=SegmentInput(size=96, short=96, scales=(0.75, 1.0, 1.25)),
        augment=SegmentAugment(scale=(0.75, 1.5), flip=0.5, distort=True),
        optim=Optim(epochs=100, batch_size=16, lr=1e-3, label_smoothing=0.0, ema=0.998),
        trainer=Trainer(select="miou"),
    )


ALL = (
    *(ade20k_t, ade20k_s, ade20k_s_in22k, ade20k_s_in22k_640, ade20k_b_in22k, ade20k_l_in22k, ade20k_xl_in22k),
    *(masks,),
)


def _ade20k(name: str, variant: str, weights: str, drop_path: float, layer_decay: float, size: int = 512) -> Recipe:
    return Recipe(
        name,
        model=Model(
            f"unireplknet_{variant}",
            weights=f"{RELEASED}/unireplknet_{variant}_{weights}.pth",
            drop_path=drop_path,
        ),
        head=SegmentHead("upernet", 512, auxiliary=0.4),
        data=Data("ade20k", workers=4, max_unreadable=0),
        input=SegmentInput(
            size=size,
            short=size,
            long=4 * size,
            scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75) if size == 512 else (0.75, 1.0, 1.25),
            first_class=1,  # 0 is what none of the 150 classes names
        ),
        augment=SegmentAugment(scale=(0.5, 2.0), flip=0.5, distort=True, largest=0.75),
        optim=Optim(
            epochs=127,
            batch_size=16,
            lr=1e-4,
            min_lr=0.0,
            warmup_epochs=1.19,
            power=1.0,
            label_smoothing=0.0,
            decay_grn=True,
            # The authors count 12 groups and the decoder; the stem comes to the same rate over 36 blocks.
            layer_decay=layer_decay ** (13 / 37),
        ),
        trainer=Trainer(select="last", devices=8, sync_batchnorm=True, checkpoint_activations=variant != "t"),
    )
