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


def _peers(prefix: str, suffix: str, tag: str, size: int, source: str, **top1: Any) -> tuple[Accuracy, ...]:
    figures = {key: value if isinstance(value, tuple) else (value, None) for key, value in top1.items()}
    return tuple(Accuracy(f"{prefix}{k}{suffix}", tag, size, v[0], source, v[1]) for k, v in figures.items())


_V1, _V2 = "README of ConvNeXt", "README of ConvNeXt V2"
_IN22K = "fcmae_ft_in22k_in1k_384"
_SIZES = {"atto": (76.7, 5054), "femto": (78.5, 4329), "pico": (80.3, 3339), "nano": (81.9, 2405), "tiny": 83.0}
_TUNED = {"tiny": 84.1, "small": (85.8, 415), "base": (86.8, 304), "large": (87.5, 185), "xlarge": (87.8, 129)}

ACCURACIES = (
    *(
        Accuracy(
            row.label,
            "in22k_ft_in1k_384" if row.pretraining else "in1k",
            row.size,
            row.top1,
            PAPER,
            row.images_per_second,
        )
        for row in VARIANT_ROWS
        if row.top1 is not None
    ),
    *_peers("convnextv2_", "", "fcmae_ft_in1k", 224, _V2, **_SIZES, base=84.9, large=85.8, huge=86.3),
    *_peers("convnextv2_", "", _IN22K, 384, _V2, nano=83.4, tiny=85.1, base=87.7, large=88.2, huge=88.7),
    *_peers("convnext_", "", "fb_in1k", 224, _V1, tiny=82.1, small=(83.1, 1182), base=83.8, large=84.3),
    *_peers("convnext_", "", "fb_in22k_ft_in1k_384", 384, _V1, **_TUNED),
    *_peers("swin_", "_patch4_window7_224", "ms_in1k", 224, "README of Swin", tiny=81.2, small=83.2, base=83.5),
    *_peers("swin_", "_patch4_window12_384", "ms_in22k_ft_in1k", 384, "README of Swin", base=86.4, large=87.3),
    *_peers("focalnet_", "_lrf", "ms_in1k", 224, "README of FocalNet", tiny=82.3, small=83.5, base=83.9),
    *_peers("focalnet_", "_srf", "ms_in1k", 224, "README of FocalNet", tiny=82.1, small=83.4, base=83.7),
)
"""Of our variants, and of the peers that timm can build; timm itself says nothing about accuracy."""


def find_accuracy(name: str, tag: str, size: int) -> Accuracy | None:
    """What is published about a network at an input size in pixels.

    Args:
        name: The architecture.
        tag: The weights; empty for the first that are listed at that size.
        size: Height and width in pixels.
    """
    return next((a for a in ACCURACIES if (a.name, a.size) == (name, size) and tag in ("", a.tag)), None)
