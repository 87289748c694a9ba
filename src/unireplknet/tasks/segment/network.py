"""Semantic segmentation: a backbone of the family, or any of timm's, under a decoder of segmentation-models-pytorch."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from unireplknet.errors import missing_extra
from unireplknet.tasks.dense.network import DenseNetwork, is_own

Decoder = Literal["upernet", "unet"]


class Segmenter(DenseNetwork):
    """Maps to the class of each of their pixels.

    Backbones of the family have feature norms, which are then UPerNet's own: released backbones of segmenters fit.

    Args:
        backbone: A name that timm knows, such as those of the family.
        in_chans: Channels C of the maps.
        num_classes: Number of classes.
        decoder: "upernet", or the lighter "unet".
        width: Channels of UPerNet; of U-Net those of the first of its five steps, halved in each down to 16.
        auxiliary: Whether to have a second, simpler head on the third stage, to learn with.
        kwargs: Arguments of the backbone.

    Raises:
        UserError: The library is not installed.

    Source:
        Section 5 of the paper takes UPerNet of 512 channels; its decoder has a dropout of 0.1 that this one has not,
        and its auxiliary head 256 channels where torchvision's has a quarter of the stage's.
    """

    place = "network.encoder.model.model"

    def __init__(
        self,
        backbone: str,
        in_chans: int,
        num_classes: int,
        decoder: Decoder = "upernet",
        width: int = 256,
        auxiliary: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        try:
            import segmentation_models_pytorch as smp
        except ImportError as error:
            raise missing_extra("segmentation_models_pytorch", "segment") from error
        own = is_own(backbone)
        settings = {"feature_norms": True, **kwargs} if own else kwargs
        self.network = smp.create_model(
            decoder,
            f"tu-{backbone}",
            encoder_weights=None,
            in_channels=in_chans,
            classes=num_classes,
            decoder_channels=width if decoder == "upernet" else _narrowing(width),
            feature_cls="getter",
            **({"upsampling": 1} if decoder == "upernet" else {}),
            **settings,
        )
        if own and decoder == "upernet":
            norms = self.network.decoder.feature_norms
            self.network.decoder.feature_norms = nn.ModuleList(nn.Identity() for _ in norms)
        self.auxiliary = _fcn_head(self.network.encoder.out_channels[-2], num_classes) if auxiliary else None

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (B, C, H, W), of any H and W, to logits (B, num_classes, H, W)."""
        return self._classify(self.network.encoder(x), x)

    def forward_training(self, x: Tensor) -> tuple[Tensor, ...]:
        """The logits of :meth:`forward`, and where there is an auxiliary head its logits too, of the same shape."""
        features = self.network.encoder(x)
        logits = self._classify(list(features), x)
        if self.auxiliary is None:
            return (logits,)
        return logits, _resized(self.auxiliary(features[-2]), x)

    def _classify(self, features: list[Tensor], x: Tensor) -> Tensor:
        return _resized(self.network.segmentation_head(self.network.decoder(features)), x)


def _narrowing(width: int) -> tuple[int, ...]:
    """Channels of U-Net's steps: fewer than 16 in the last ones could not tell many classes apart."""
    return tuple(max(min(width, 16), width // 2**i) for i in range(5))


def _fcn_head(dim: int, num_classes: int) -> nn.Module:
    from torchvision.models.segmentation.fcn import FCNHead

    return FCNHead(dim, num_classes)


def _resized(logits: Tensor, like: Tensor) -> Tensor:
    if logits.shape[2:] == like.shape[2:]:
        return logits
    return F.interpolate(logits, size=like.shape[2:], mode="bilinear", align_corners=False)
