"""The model family as one table, and its registration in timm."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from unireplknet.models.backbone import UniRepLKNet
from unireplknet.models.weights import HUB_ID, checkpoint_filter_fn


@dataclass(frozen=True)
class Variant:
    """Size of a UniRepLKNet.

    Attributes:
        dim: Channels C of the first stage; each later stage doubles them.
        depths: Blocks of each stage.
        smak: SmaK blocks (3x3) after each LarK block (13x13) of stage 3 (guideline 4).
        large_kernel: Kernel size K of the LarK blocks.
        small_kernel: Kernel size of stage 1 and of the SmaK blocks.
    """

    dim: int
    depths: tuple[int, int, int, int]
    smak: int = 0
    large_kernel: int = 13
    small_kernel: int = 3

    def kwargs(self) -> dict[str, Any]:
        """Arguments of :class:`UniRepLKNet`."""
        large, small = self.large_kernel, self.small_kernel
        pattern = (large, *[small] * self.smak)
        stage3 = tuple(pattern[j % len(pattern)] for j in range(self.depths[2]))
        sizes = ((small,) * self.depths[0], (large,) * self.depths[1], stage3, (large,) * self.depths[3])
        return {
            "depths": self.depths,
            "dims": tuple(self.dim * 2**i for i in range(4)),
            "kernel_sizes": sizes,
        }


VARIANTS = {
    "unireplknet_a": Variant(40, (2, 2, 6, 2)),
    "unireplknet_f": Variant(48, (2, 2, 6, 2)),
    "unireplknet_p": Variant(64, (2, 2, 6, 2)),
    "unireplknet_n": Variant(80, (2, 2, 8, 2)),
    "unireplknet_t": Variant(80, (3, 3, 18, 3), smak=1),
    "unireplknet_s": Variant(96, (3, 3, 27, 3), smak=2),
    "unireplknet_b": Variant(128, (3, 3, 27, 3), smak=2),
    "unireplknet_l": Variant(192, (3, 3, 27, 3), smak=2),
    "unireplknet_xl": Variant(256, (3, 3, 27, 3), smak=2),
    "unireplknet_h": Variant(480, (3, 3, 27, 3), smak=2),
    "test_unireplknet": Variant(16, (1, 1, 2, 1), smak=1, large_kernel=7),
}
"""Published sizes (table 4 of the journal version; H appears there only), and a tiny one for tests."""


def _cfg(filename: str | None = None, **kwargs: Any) -> dict[str, Any]:
    hub = {"hf_hub_id": HUB_ID, "hf_hub_filename": f"{filename}.pth"} if filename else {}
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1",
        "classifier": "head.fc",
        "license": "apache-2.0",
        "paper_ids": "arXiv:2311.15599",
        "paper_name": "UniRepLKNet: A Universal Perception Large-Kernel ConvNet",
        "origin_url": "https://github.com/AILab-CVC/UniRepLKNet",
        **hub,
        **kwargs,
    }


def _cfg_22k(filename: str, size: int = 224) -> dict[str, Any]:
    return _cfg(filename, num_classes=21841, input_size=(3, size, size), pool_size=(size // 32, size // 32))


def _cfg_384(filename: str) -> dict[str, Any]:
    # From 384 px on the authors resize to the input size without a crop.
    return _cfg(filename, input_size=(3, 384, 384), pool_size=(12, 12), crop_pct=1.0, crop_mode="squash")


default_cfgs = generate_default_cfgs(
    {
        "unireplknet_a.in1k": _cfg("unireplknet_a_in1k_224_acc77.03"),
        "unireplknet_f.in1k": _cfg("unireplknet_f_in1k_224_acc78.58"),
        "unireplknet_p.in1k": _cfg("unireplknet_p_in1k_224_acc80.23"),
        "unireplknet_n.in1k": _cfg("unireplknet_n_in1k_224_acc81.64"),
        "unireplknet_t.in1k": _cfg("unireplknet_t_in1k_224_acc83.21"),
        "unireplknet_s.in1k": _cfg("unireplknet_s_in1k_224_acc83.91"),
        "unireplknet_s.in22k": _cfg_22k("unireplknet_s_in22k_pretrain"),
        "unireplknet_s.in22k_ft_in1k_384": _cfg_384("unireplknet_s_in22k_to_in1k_384_acc86.44"),
        "unireplknet_b.in22k_ft_in1k_384": _cfg_384("unireplknet_b_in22k_to_in1k_384_acc87.40"),
        "unireplknet_b.in22k": _cfg_22k("unireplknet_b_in22k_pretrain"),
        "unireplknet_l.in22k_ft_in1k_384": _cfg_384("unireplknet_l_in22k_to_in1k_384_acc87.88"),
        "unireplknet_l.in22k": _cfg_22k("unireplknet_l_in22k_pretrain", 192),
        "unireplknet_xl.in22k_ft_in1k_384": _cfg_384("unireplknet_xl_in22k_to_in1k_384_acc87.96"),
        "unireplknet_xl.in22k": _cfg_22k("unireplknet_xl_in22k_pretrain", 192),
        "unireplknet_h": _cfg(),
        "test_unireplknet": _cfg(input_size=(3, 96, 96), pool_size=(3, 3), crop_pct=1.0),
    }
)


def _entrypoint(name: str, variant: Variant) -> Callable[..., UniRepLKNet]:
    def create(pretrained: bool = False, **kwargs: Any) -> UniRepLKNet:
        # timm's other extractors chain the children of a model and know of no norm beside the path.
        how = {"feature_cls": "getter"} if kwargs.get("feature_norms") else {"flatten_sequential": True}
        return build_model_with_cfg(
            UniRepLKNet,
            name,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": (0, 1, 2, 3), **how},
            **(variant.kwargs() | kwargs),
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{name}: C = {variant.dim}, depths {variant.depths}."
    return create


for _name, _variant in VARIANTS.items():
    register_model(_entrypoint(_name, _variant))


def list_models() -> list[str]:
    """Names of the family, smallest first."""
    return [name for name in VARIANTS if name.startswith("unireplknet")]


def create_model(name: str, pretrained: bool = False, **kwargs: Any) -> UniRepLKNet:
    """Create a model of the family.

    Args:
        name: A name of :func:`list_models`, with a pre-training tag if ``pretrained``, as in
            ``unireplknet_t.in1k``. ``timm.create_model`` takes the same names.
        pretrained: Download and load the released weights of that tag.
        kwargs: Arguments of :class:`UniRepLKNet`, or timm's (``features_only``, ``out_indices``, ...).

    Returns:
        The model.

    Raises:
        ValueError: If there is no such model, with the nearest names.
    """
    if name.partition(".")[0] not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.4) or list_models()
        raise ValueError(f"no model named {name!r}; did you mean {' or '.join(near)}?")
    return timm.create_model(name, pretrained=pretrained, **kwargs)
