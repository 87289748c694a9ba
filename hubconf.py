"""Entry points of torch.hub: ``torch.hub.load("unireplknet/unireplknet", "unireplknet_t", pretrained=True)``."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "src"))  # torch.hub installs nothing

import unireplknet

dependencies = ["huggingface_hub", "safetensors", "timm", "torch", "torchvision"]


def _entry_point(name: str) -> Callable[..., unireplknet.UniRepLKNet]:
    def create(tag: str = "", **kwargs: Any) -> unireplknet.UniRepLKNet:
        return unireplknet.create_model(f"{name}.{tag}" if tag else name, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"""Create {name}.

    Args:
        tag: Tag of released weights, such as "in1k"; used with ``pretrained=True``.
        kwargs: As of `unireplknet.create_model`.

    Returns:
        The network.
    """
    return create


globals().update({name: _entry_point(name) for name in unireplknet.list_models()})
