"""What the paper prints about its models: every row that this package can build, and the figures beside it."""

from dataclasses import dataclass, field
from typing import Any

from unireplknet.models.variants import VARIANTS, Variant


@dataclass(frozen=True)
class Row:
    """A row of a table of the paper.

    Attributes:
        label: What the row is.
        kwargs: Arguments of :class:`~unireplknet.UniRepLKNet` that build it.
        params: Parameters as printed, in millions, with all the digits; None where nothing is printed.
        macs: MACs as printed (the paper says FLOPs), in billions, likewise.
        size: Input height and width in pixels.
        images_per_second: Throughput as printed: one A100, batch 128.
        top1: ImageNet-1K top-1 accuracy as printed, in percent.
        pretraining: Whether ImageNet-22K came first.
    """

    label: str
    kwargs: dict[str, Any] = field(repr=False)
    params: str | None = None
    macs: str | None = None
    size: int = 224
    images_per_second: int | None = None
    top1: float | None = None
    pretraining: bool = False


def _variant(name: str, *figures: Any, **kwargs: Any) -> Row:
    return Row(name, VARIANTS[name].kwargs(), *figures, **kwargs)


VARIANT_ROWS = (
    _variant("unireplknet_a", "4.4", "0.6", 224, 5942, 77.0),
    _variant("unireplknet_f", "6.2", "0.9", 224, 5173, 78.6),
    _variant("unireplknet_p", "10.7", "1.6", 224, 3949, 80.2),
    _variant("unireplknet_n", "18.3", "2.8", 224, 2807, 81.6),
    _variant("unireplknet_t", "31.0", "4.9", 224, 1804, 83.2),
    _variant("unireplknet_s", "55.6", "9.1", 224, 1265, 83.9),
    _variant("unireplknet_s", "56", "26.7", 384, 435, 86.4, pretraining=True),
    _variant("unireplknet_b", "97.9", "47.2", 384, 314, 87.4, pretraining=True),
    _variant("unireplknet_l", "218.3", "105.4", 384, 190, 87.9, pretraining=True),
    _variant("unireplknet_xl", "386.4", "187", 384, 131, 88.0, pretraining=True),
    _variant("unireplknet_h"),
)
"""Tables 4 and 5 of the journal version; H appears there only, as "1.4B"."""

_SIZE = Variant(96, (3, 3, 9, 3)).kwargs()


def _ablation(label: str, *figures: Any, **kwargs: Any) -> Row:
    params, macs, speed, top1 = figures
    return Row(label, _SIZE | kwargs, params, macs, 224, speed, top1)


def _by_stage(*sizes: int) -> dict[str, Any]:
    return {"kernel_sizes": tuple((k,) * d for k, d in zip(sizes, _SIZE["depths"], strict=True))}


def _scaled(stage3: tuple[int, ...]) -> dict[str, Any]:
    return {"depths": (3, 3, 27, 3), "kernel_sizes": ((3,) * 3, (13,) * 3, stage3, (13,) * 3)}


_PLAIN = {"branches": {13: ()}}

ABLATION_ROWS = (
    _ablation("T3a none", "31.3", "4.92", 1954, 81.2, extra="none"),
    _ablation("T3a A: bottleneck", "32.9", "5.18", 1716, 81.5, extra="bottleneck"),
    _ablation("T3a B: two 1x1", "32.9", "5.17", 1745, 81.3, extra="pointwise"),
    _ablation("T3a C: two depthwise 3x3", "31.4", "4.96", 1659, 81.3, extra="depthwise"),
    _ablation("T3a D: SE", "32.9", "4.92", 1863, 81.6),
    _ablation("T3b no re-parameterization", None, None, None, 81.44, **_PLAIN),
    _ablation("T3b dilated", None, None, None, 81.63),
    _ablation(
        "T3b same kernels, undilated",
        *(None, None, None, 81.55),
        branches={13: ((5, 1), (7, 1), (3, 1), (3, 1), (3, 1))},
    ),
    _ablation(
        "T3b same sizes, undilated",
        *(None, None, None, 81.59),
        branches={13: ((5, 1), (13, 1), (7, 1), (9, 1), (11, 1))},
    ),
    _ablation("T3c 3-13-13-13", "32.9", "4.92", 1863, 81.6, **_by_stage(3, 13, 13, 13)),
    _ablation("T3c 3-11-11-11", "32.6", "4.86", 1876, 81.6, **_by_stage(3, 11, 11, 11)),
    _ablation("T3c 3-3-13-13", "32.8", "4.85", 2006, 81.7, **_by_stage(3, 3, 13, 13)),
    _ablation("T3c 3-13-3-13", "32.4", "4.81", 2015, 81.6, **_by_stage(3, 13, 3, 13)),
    _ablation("T3c 3-13-13-3", "32.5", "4.90", 1884, 81.4, **_by_stage(3, 13, 13, 3)),
    _ablation("T3c 3-15-15-15", "33.3", "4.99", 1851, 81.7, **_by_stage(3, 15, 15, 15)),
    _ablation("T3c 13-13-13-13", "33.0", "5.06", 1547, 81.6, **_by_stage(13, 13, 13, 13)),
    _ablation("T3d 9 LarK", "32.9", "4.92", 1863, 81.6),
    _ablation("T3d 27 LarK", "56.7", "9.31", 1145, 82.3, **_scaled((13,) * 27)),
    _ablation("T3d 14 LarK + 13 SmaK", "55.9", "9.15", 1229, 82.3, **_scaled((*(13, 3) * 13, 13))),
    _ablation("T3d 9 LarK + 18 SmaK", "55.6", "9.10", 1264, 82.3, **_scaled((13, 3, 3) * 9)),
    _ablation("T3d 9 LarK + 18 without 3x3", "55.5", "9.08", 1289, 82.2, **_scaled((13, 0, 0) * 9)),
)
"""Tables 3a to 3d of the journal version (tables 1 to 4 of the paper): 100 epochs, drop path 0.1."""


@dataclass(frozen=True)
class Accuracy:
    """What is published about the accuracy of trained weights.

    Attributes:
        name: The architecture, as timm names it.
        tag: The weights, likewise.
        size: Input height and width in pixels.
        top1: ImageNet-1K top-1 accuracy in percent.
        source: Who says so.
        images_per_second: Throughput as the UniRepLKNet paper prints it: one A100, batch 128.
    """

    name: str
    tag: str
    size: int
    top1: float
    source: str
    images_per_second: int | None = None


PAPER = "UniRepLKNet, journal version, table 5"


def _peers(source: str, tag: str, size: int, figures: dict[str, tuple[float, int | None]]) -> tuple[Accuracy, ...]:
    return tuple(Accuracy(name, tag, size, top1, source, speed) for name, (top1, speed) in figures.items())


ACCURACIES = (
    *(
        Accuracy(r.label, "in22k_ft_in1k_384" if r.pretraining else "in1k", r.size, r.top1, PAPER, r.images_per_second)
        for r in VARIANT_ROWS
        if r.top1 is not None
    ),
    *_peers(
        "README of ConvNeXt V2",
        *("fcmae_ft_in1k", 224),
        {
            "convnextv2_atto": (76.7, 5054),
            "convnextv2_femto": (78.5, 4329),
            "convnextv2_pico": (80.3, 3339),
            "convnextv2_nano": (81.9, 2405),
            "convnextv2_tiny": (83.0, None),
            "convnextv2_base": (84.9, None),
            "convnextv2_large": (85.8, None),
            "convnextv2_huge": (86.3, None),
        },
    ),
    *_peers(
        "README of ConvNeXt V2",
        *("fcmae_ft_in22k_in1k_384", 384),
        {
            "convnextv2_nano": (83.4, None),
            "convnextv2_tiny": (85.1, None),
            "convnextv2_base": (87.7, None),
            "convnextv2_large": (88.2, None),
            "convnextv2_huge": (88.7, None),
        },
    ),
    *_peers(
        "README of ConvNeXt",
        *("fb_in1k", 224),
        {
            "convnext_tiny": (82.1, None),
            "convnext_small": (83.1, 1182),
            "convnext_base": (83.8, None),
            "convnext_large": (84.3, None),
        },
    ),
    *_peers(
        "README of ConvNeXt",
        *("fb_in22k_ft_in1k_384", 384),
        {
            "convnext_tiny": (84.1, None),
            "convnext_small": (85.8, 415),
            "convnext_base": (86.8, 304),
            "convnext_large": (87.5, 185),
            "convnext_xlarge": (87.8, 129),
        },
    ),
    *_peers(
        "README of Swin Transformer",
        *("ms_in1k", 224),
        {
            "swin_tiny_patch4_window7_224": (81.2, None),
            "swin_small_patch4_window7_224": (83.2, None),
            "swin_base_patch4_window7_224": (83.5, None),
        },
    ),
)
"""Of our variants, and of the peers that timm can build; timm itself says nothing about accuracy.
The UniRepLKNet paper sets lower ones beside its own for ConvNeXt V2: 76.2, 78.0, 79.7 and 81.2 for Atto to Nano."""


def find_accuracy(name: str, tag: str, size: int) -> Accuracy | None:
    """What is published about a network at an input size in pixels.

    Args:
        name: The architecture.
        tag: The weights; empty for the first that are listed at that size.
        size: Height and width in pixels.
    """
    return next((a for a in ACCURACIES if (a.name, a.size) == (name, size) and tag in ("", a.tag)), None)
