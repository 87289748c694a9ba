"""A modality is how a raw sample becomes a C x H x W map: file -> read -> to_map.

Each is a pair of dataclasses: the input (read, to_map) and the augmentation, whose ``bind(input)`` gives the training
counterpart of ``to_map``. The network never knows which modality it sees.
"""

from unireplknet.registry import MODALITIES, SOURCES

__all__ = ["MODALITIES", "SOURCES"]
