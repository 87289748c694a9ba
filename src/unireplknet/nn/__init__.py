"""The network's parts, under the paper's names."""

from unireplknet.nn.blocks import Downsample, Stem, UniRepLKBlock, reparameterize
from unireplknet.nn.dilated_reparam import DilatedReparamConv
from unireplknet.nn.layers import DepthwiseConv2d, GlobalResponseNorm

__all__ = [
    "DepthwiseConv2d",
    "DilatedReparamConv",
    "Downsample",
    "GlobalResponseNorm",
    "Stem",
    "UniRepLKBlock",
    "reparameterize",
]
