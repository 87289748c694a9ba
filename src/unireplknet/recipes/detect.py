"""Object detection: COCO with the paper's settings, and images with boxes of your own.

Settings of COCO are those of the journal version's appendix B and of the authors' configurations: 36 epochs of 16
images, AdamW, the learning rate falls after 27 and 33 epochs, 500 steps of warm-up, shorter sides of 480 to 800 pixels
and longer ones of at most 1333, half of the images cut before. What differs:

- The paper's detector is Cascade Mask R-CNN; torchvision has Mask R-CNN, of one stage less than three. Its boxes are
  learnt with torchvision's smooth L1 loss, not with GIoU of weight 10. The box head has four convolutions and a linear
  layer, as theirs; no recipe of this module can reach the scores below, which are the cascade's.
- Images without objects are trained with, 1% of all; an epoch is 7,392 steps instead of 7,329.
- Batches are not grouped by which side is longer, so that some images are filled up more; the running average, where
  there is one, follows the weights in its first steps by another rule.
- Layer-wise decay counts every block, not groups of blocks. Pieces are 0.6 to 1 of each side of the image, where the
  authors first scale the image and cut out 384 to 600 pixels.

The val split is COCO's validation part. It chooses nothing: the last epoch is kept. None of the COCO recipes has been
run by this project, and hours are not estimated. They start from the authors' weights for ImageNet.
"""

from __future__ import annotations

from unireplknet.recipes.imagenet import RELEASED
from unireplknet.tasks.detect.inputs import DetectAugment, DetectInput
from unireplknet.tasks.detect.task import DetectHead
from unireplknet.training.plan import Samples
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer

COCO = Samples(80, {"train": 118_287, "val": 5_000})


def coco_t() -> Recipe:
    """COCO with Mask R-CNN, where the paper has Cascade Mask R-CNN, and UniRepLKNet-T.

    Command: unireplknet train coco_t --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 51.8% box AP, 44.9% mask AP with Cascade Mask R-CNN (journal version, table 6; the authors' README has
        51.7%). Not run.
    """
    return _coco("coco_t", "t", "in1k_224_acc83.21", drop_path=0.3, layer_decay=0.8)


def coco_s() -> Recipe:
    """COCO with Mask R-CNN, where the paper has Cascade Mask R-CNN, and UniRepLKNet-S.

    Command: unireplknet train coco_s --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 53.0% box AP, 45.9% mask AP with Cascade Mask R-CNN (journal version, table 6). Not run.
    """
    return _coco("coco_s", "s", "in1k_224_acc83.91", drop_path=0.5, layer_decay=0.8)


def coco_s_in22k() -> Recipe:
    """COCO with Mask R-CNN, where the paper has Cascade Mask R-CNN, and UniRepLKNet-S pretrained on ImageNet-22K.

    Command: unireplknet train coco_s_in22k --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 54.3% box AP, 47.1% mask AP with Cascade Mask R-CNN (journal version, table 6). Not run.
    """
    return _coco("coco_s_in22k", "s", "in22k_to_in1k_384_acc86.44", drop_path=0.5, layer_decay=0.8, ema=0.9999)


def coco_b_in22k() -> Recipe:
    """COCO with Mask R-CNN, where the paper has Cascade Mask R-CNN, and UniRepLKNet-B pretrained on ImageNet-22K.

    Command: unireplknet train coco_b_in22k --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 54.8% box AP, 47.4% mask AP with Cascade Mask R-CNN (journal version, table 6). Not run.
    """
    return _coco("coco_b_in22k", "b", "in22k_to_in1k_384_acc87.40", drop_path=0.6, layer_decay=0.8, ema=0.9999)


def coco_l_in22k() -> Recipe:
    """COCO with Mask R-CNN, where the paper has Cascade Mask R-CNN, and UniRepLKNet-L pretrained on ImageNet-22K.

    Command: unireplknet train coco_l_in22k --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 55.8% box AP, 48.4% mask AP with Cascade Mask R-CNN (journal version, table 6). Not run.
    """
    return _coco("coco_l_in22k", "l", "in22k_to_in1k_384_acc87.88", drop_path=0.7, layer_decay=0.7, ema=0.9999)


def coco_xl_in22k() -> Recipe:
    """COCO with Mask R-CNN, where the paper has Cascade Mask R-CNN, and UniRepLKNet-XL pretrained on ImageNet-22K.

    Command: unireplknet train coco_xl_in22k --data PATH
    Hardware: 8 GPUs.
    Time: not run.
    Score: 56.4% box AP, 49.0% mask AP with Cascade Mask R-CNN (journal version, table 6). Not run.
    """
    return _coco("coco_xl_in22k", "xl", "in22k_to_in1k_384_acc87.96", drop_path=0.7, layer_decay=0.7, ema=0.9999)


def boxes() -> Recipe:
    """Your own pictures with boxes, learnt from scratch by a small network under Faster R-CNN.

    Command: unireplknet train boxes --data PATH, for tables in CSV with --data.source box_table
    Hardware: a GPU, or patience.
    Time: depends on the number of pictures.
    Score: depends on the pictures. Not run on a named data set.
    """
    return Recipe(
        "boxes",
        model=Model("unireplknet_a", drop_path=0.1),
        head=DetectHead(width=128, anchors=(16, 32, 64, 128, 256), head_width=512),
        data=Data("coco", workers=2, max_unreadable=0),
        input=DetectInput(short=400, long=667),
        augment=DetectAugment(scale=(0.6, 1.0), crop=0.5, flip=0.5, distort=True),
        optim=Optim(epochs=100, batch_size=8, lr=5e-4, clip_grad=10.0, ema=0.998),
        trainer=Trainer(select="box_ap"),
    )


ALL = (
    *(coco_t, coco_s, coco_s_in22k, coco_b_in22k, coco_l_in22k, coco_xl_in22k),
    boxes,
)


def _coco(name: str, variant: str, weights: str, drop_path: float, layer_decay: float, ema: float = 0.0) -> Recipe:
    return Recipe(
        name,
        model=Model(
            f"unireplknet_{variant}",
            weights=f"{RELEASED}/unireplknet_{variant}_{weights}.pth",
            drop_path=drop_path,
        ),
        head=DetectHead("mask_rcnn", box_head="conv"),
        data=Data("coco", workers=4, max_unreadable=0),
        input=DetectInput(short=800, long=1333, masks=True),
        augment=DetectAugment(scale=(0.6, 1.0), crop=0.5, flip=0.5),
        optim=Optim(
            epochs=36,
            batch_size=16,
            lr=1e-4,
            warmup_epochs=500 / 7392,
            milestones=(27, 33),
            decay_grn=True,
            # The authors count 12 groups and the heads; the stem comes to the same rate over 27 or 36 blocks.
            layer_decay=layer_decay ** (13 / (28 if variant == "t" else 37)),
            ema=ema,
        ),
        trainer=Trainer(select="last", devices=8, sync_batchnorm=True, checkpoint_activations=variant != "t"),
    )
