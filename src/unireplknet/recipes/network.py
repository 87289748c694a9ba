"""The network of the recipes that run on a laptop."""

from __future__ import annotations

from typing import Any

from unireplknet.training.recipe import Model


def small_network(dims: tuple[int, int, int, int], **settings: Any) -> Model:
    """Return a network of five blocks, for maps of a few thousand pixels.

    Args:
        dims: Channels of each stage.
        settings: Other settings of :class:`~unireplknet.training.settings.Model`, also in place of those given here.
    """
    small: dict[str, Any] = {"depths": (1, 1, 2, 1), "kernel_sizes": ((7,), (7,), (7, 7), (3,)), "drop_path": 0.1}
    return Model("unireplknet_a", dims=dims, **(small | settings))
