"""Object detection: a backbone of the family, or any of timm's, under torchvision's detectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import timm
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from unireplknet.errors import UserError
from unireplknet.tasks.dense.network import DenseNetwork, is_own

Kind = Literal["faster_rcnn", "mask_rcnn", "retinanet"]

BoxHead = Literal["mlp", "conv"]

STRIDE = 32
"""Torchvision's detectors fill maps up to a multiple of this height and width."""

RATIOS = (0.5, 1.0, 2.0)
"""Height to width of the anchors."""


class Pyramid(nn.Module):
    """The features of a network under torchvision's feature pyramid, as its detectors take them.

    Args:
        features: A network of timm's that gives features.
        width: Channels of each level.
        extra: Makes further, coarser levels.
        normed: Whether the features are normed already. If not, a LayerNorm over the channels of each stage does it,
            as in published detectors over networks whose stages end without a norm.
    """

    def __init__(self, features: nn.Module, width: int, extra: nn.Module | None, normed: bool) -> None:
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        channels = features.feature_info.channels()  # type: ignore[operator, union-attr]
        self.features = features
        self.norms = nn.ModuleList(nn.Identity() if normed else LayerNorm2d(count) for count in channels)
        self.fpn = FeaturePyramidNetwork(channels, width, extra)
        self.out_channels = width

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps of all levels, the finest first, for x of shape (B, C, H, W)."""
        stages = zip(self.norms, self.features(x), strict=True)
        return self.fpn({str(i): norm(stage) for i, (norm, stage) in enumerate(stages)})


class Detector(DenseNetwork):
    """Maps to boxes of objects, with class, score and, from Mask R-CNN, mask.

    Faster R-CNN and Mask R-CNN see the four stages, and a coarser level where there is an anchor for it; RetinaNet sees
    the last three, and two coarser levels likewise. Every stage is normed: backbones of the family have feature norms,
    so that released backbones of detectors fit, and others get norms in front of the pyramid.

    Args:
        backbone: A name that timm knows, such as those of the family.
        in_chans: Channels C of the maps.
        num_classes: Number of classes, without a background.
        detector: "faster_rcnn", "mask_rcnn" or "retinanet".
        width: Channels of the pyramid, and of convolutions in the heads.
        anchors: Side in pixels of the square anchor of each level, the finest level first. RetinaNet adds anchors that
            are 2^(1/3) and 2^(2/3) times as large.
        box_head: Before the last layers of Faster and Mask R-CNN: "mlp", or "conv" (four convolutions, with batch
            statistics).
        head_width: Width of the layers between a box's features and its class.
        proposals: Boxes that the first stage of Faster and Mask R-CNN passes on in each image, at most; twice as many
            in training.
        rois: Boxes of each image that its second stage learns from.
        short: Shorter side to which maps are scaled, in evaluation only: training scales them itself.
        long: Longest side that this may give.
        kwargs: Arguments of the backbone.

    Raises:
        UserError: There are too many or too few anchors.

    Source:
        Section 5 of the paper takes Cascade Mask R-CNN, which torchvision has not.
    """

    place = "network.backbone.features.model"

    def __init__(
        self,
        backbone: str,
        in_chans: int,
        num_classes: int,
        detector: Kind = "faster_rcnn",
        width: int = 256,
        anchors: Sequence[int] = (32, 64, 128, 256, 512),
        box_head: BoxHead = "mlp",
        head_width: int = 1024,
        proposals: int = 1000,
        rois: int = 512,
        short: int = 800,
        long: int = 1333,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        own = is_own(backbone)
        single = detector == "retinanet"
        stages = 3 if single else 4
        extra = _extra_levels(detector, stages, len(anchors), width)
        features = timm.create_model(
            backbone,
            features_only=True,
            feature_cls="getter",
            out_indices=tuple(range(-stages, 0)),
            in_chans=in_chans,
            **({"feature_norms": True, **kwargs} if own else kwargs),
        )
        if own:  # the norms of stages that nobody asks for learn nothing, which several processes have to know
            features.model.feature_norms[:-stages].requires_grad_(False)
        pyramid = Pyramid(features, width, extra, normed=own)
        # Maps are normalised already, and scaled already in training.
        given = {
            "image_mean": [0.0] * in_chans,
            "image_std": [1.0] * in_chans,
            "min_size": short,
            "max_size": long,
            "_skip_resize": True,
        }
        if single:
            self.network = _retinanet(pyramid, num_classes, anchors, given)
        else:
            finest = features.feature_info.reduction()[0]
            heads = _heads(num_classes + 1, width, anchors, finest, box_head, head_width, detector == "mask_rcnn")
            counts = {"box_batch_size_per_image": rois}
            for when, part in (("train", 2 * proposals), ("test", proposals)):
                counts |= {f"rpn_pre_nms_top_n_{when}": part, f"rpn_post_nms_top_n_{when}": part}
            self.network = _rcnn(detector)(pyramid, **heads, **counts, **given)
        self._width = width
        self.first_label = 0 if single else 1
        """Label of the first class in torchvision's count: 0 is the background of detectors in two stages."""

    def features(self, x: Tensor) -> list[Tensor]:
        """Features of the stages, for x of shape (B, C, H, W)."""
        return self.get_submodule("network.backbone.features")(x)

    def scaled(self, map: Tensor) -> Tensor:
        """What the backbone sees of a map (C, H, W) in evaluation: scaled, and filled up with zeros."""
        return self.network.transform([map])[0].tensors[0]  # type: ignore[operator]

    def forward(self, maps: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        """What is to be minimised in training, what is found in evaluation.

        Args:
            maps: Normalised maps (C, H, W), of any sizes.
            targets: For training, the ``boxes`` (N, 4) of each map as left, top, right and bottom in pixels, their
                ``labels`` (N,), and for Mask R-CNN ``masks`` (N, H, W), uint8. N may be 0.

        Returns:
            In training, the losses by name. In evaluation, for each map ``boxes`` (M, 4) in its pixels, ``labels``
            (M,), ``scores`` (M,), the highest first, and from Mask R-CNN ``masks`` (M, H, W), bool.
        """
        if targets is not None:
            targets = [{**target, "labels": target["labels"] + self.first_label} for target in targets]
        if self.training:
            return self.network(list(maps), targets)
        # One by one: together they are filled up to one size with zeros, which SE and GRN would average in.
        return [self._told(found) for map in maps for found in self.network([map])]

    def layers(self, x: Tensor) -> None:
        """Compute what a training step does of maps (B, C, H, W) but for choosing boxes, to count its arithmetic.

        The second stage of Faster and Mask R-CNN gets as many boxes as it learns from at most.
        """
        levels = list(self.get_submodule("network.backbone")(x).values())
        if isinstance(head := getattr(self.network, "head", None), nn.Module):
            head(levels)
            return
        network: Any = self.network
        network.rpn.head(levels)
        heads = network.roi_heads
        boxes = heads.fg_bg_sampler.batch_size_per_image
        masks = int(boxes * heads.fg_bg_sampler.positive_fraction)
        heads.box_predictor(heads.box_head(levels[0].new_empty(len(x) * boxes, self._width, 7, 7)))
        if heads.has_mask():
            heads.mask_predictor(heads.mask_head(levels[0].new_empty(len(x) * masks, self._width, 14, 14)))

    def _told(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        told = {**found, "labels": found["labels"] - self.first_label}
        if "masks" in found:
            told["masks"] = found["masks"][:, 0] > 0.5
        return told

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile features and pyramid: what comes after them has other sizes for each image.

        Args:
            args: As of ``torch.compile``.
            kwargs: As of ``torch.compile``.
        """
        self.get_submodule("network.backbone").compile(*args, **kwargs)


def _extra_levels(detector: Kind, stages: int, levels: int, width: int) -> nn.Module | None:
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

    more = 2 if detector == "retinanet" else 1
    if levels == stages:
        return None
    if levels != stages + more:
        raise UserError(f"{levels} anchors for {detector}; expected {stages} or {stages + more}, one a level")
    return LastLevelP6P7(width, width) if detector == "retinanet" else LastLevelMaxPool()


def _retinanet(pyramid: Pyramid, num_classes: int, anchors: Sequence[int], given: dict[str, Any]) -> nn.Module:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    sizes = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in anchors)
    generator = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
    return RetinaNet(pyramid, num_classes, anchor_generator=generator, detections_per_img=100, **given)


def _rcnn(detector: Kind) -> Any:
    from torchvision.models.detection import FasterRCNN, MaskRCNN

    return MaskRCNN if detector == "mask_rcnn" else FasterRCNN


def _heads(
    labels: int, width: int, anchors: Sequence[int], finest: int, box_head: BoxHead, head_width: int, masks: bool
) -> dict[str, Any]:
    """torchvision's heads, of its usual sizes but where they depend on the width, and for objects of any size.

    The finest level has a stride of ``finest`` pixels.
    """
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign

    def pool(size: int) -> nn.Module:
        # Feature pyramid networks look at boxes of 224 pixels in the third level, where the finest anchor has 32.
        third = {"canonical_scale": 7 * anchors[0], "canonical_level": round(math.log2(finest)) + 2}
        return MultiScaleRoIAlign(["0", "1", "2", "3"], size, sampling_ratio=2, **third)

    heads: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator(tuple((side,) for side in anchors), (RATIOS,) * len(anchors)),
        "box_roi_pool": pool(7),
        "box_predictor": FastRCNNPredictor(head_width, labels),
    }
    if box_head == "mlp":
        heads["box_head"] = TwoMLPHead(width * 7 * 7, head_width)
    else:
        shape, layers = (width, 7, 7), [width] * 4
        heads["box_head"] = FastRCNNConvFCHead(shape, layers, [head_width], norm_layer=nn.BatchNorm2d)
    if masks:
        heads |= {
            "mask_roi_pool": pool(14),
            "mask_head": MaskRCNNHeads(width, [width] * 4, dilation=1),
            "mask_predictor": MaskRCNNPredictor(width, width, labels),
        }
    return heads
