"""The model family, its registration in timm, and its weights."""

from unireplknet.models.backbone import UniRepLKNet
from unireplknet.models.variants import VARIANTS, create_model, list_models
from unireplknet.models.weights import WeightsError, load_weights, save_weights

__all__ = [
    "VARIANTS",
    "UniRepLKNet",
    "WeightsError",
    "create_model",
    "list_models",
    "load_weights",
    "save_weights",
]
