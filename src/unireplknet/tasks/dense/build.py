"""How a recipe becomes a network under a decoder or a detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import unireplknet
from unireplknet import UniRepLKNet
from unireplknet.errors import UserError
from unireplknet.models.weights import load_other_weights
from unireplknet.tasks.base import MIXING
from unireplknet.tasks.dense.network import DenseNetwork
from unireplknet.training.settings import Model

UNUSED = MIXING | {"model.row", "model.drop", "model.head_init_scale", "optim.loss"}
"""Settings of classifiers that networks under a decoder or a detector have no use for."""

Dense = TypeVar("Dense", bound=DenseNetwork)


def build_dense(settings: Model, classes: Sequence[str], construct: Callable[..., Dense], what: str) -> Dense:
    """Construct a network over a backbone that timm knows, and load the weights that the backbone starts from.

    Args:
        settings: The backbone.
        classes: Class names.
        construct: Constructs the network from the arguments of the backbone.
        what: What the network is for, in a message.

    Raises:
        UserError: The settings contradict each other or the data, or a library is not installed.
    """
    settings.check_classes(classes)
    if settings.row:
        raise UserError(f"model.row is {settings.row!r}; {what} by named variants only, see model.name")
    kwargs: dict[str, Any] = {"drop_path_rate": settings.drop_path} | settings.shape()
    if settings.stem_stride != 4:
        kwargs["stem_stride"] = settings.stem_stride
    try:
        model = construct(**kwargs)
        if settings.weights:
            if isinstance(model.backbone, UniRepLKNet):
                unireplknet.load_weights(model.backbone, settings.weights)
            else:
                load_other_weights(model.backbone, settings.weights)
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise UserError(f"model {settings.name}: {error}") from error
    return model
