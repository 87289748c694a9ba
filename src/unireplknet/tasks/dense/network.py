"""What segmenters and detectors share: the backbone under them."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import nn

from unireplknet.models.backbone import UniRepLKNet
from unireplknet.models.variants import VARIANTS


class DenseNetwork(nn.Module):
    """A network that looks at the features of a backbone, of the family or any of timm's.

    Attributes:
        place: Where the libraries put the backbone, as names of modules.
    """

    place: ClassVar[str]
    num_classes: ClassVar[int] = 0  # for load_weights, which adapts classifiers

    @property
    def backbone(self) -> UniRepLKNet | nn.Module:
        """The network that sees the maps."""
        return self.get_submodule(self.place)

    @property
    def merged(self) -> bool:
        """Whether there is nothing to merge: the backbone is merged, or of another family."""
        return not isinstance(self.backbone, UniRepLKNet) or self.backbone.merged

    def reparameterize(self) -> Self:
        """Merge the backbone's branches and norms, in place; see :meth:`UniRepLKNet.reparameterize`."""
        if isinstance(self.backbone, UniRepLKNet):
            self.backbone.reparameterize()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks of the backbone in the backward pass instead of keeping their activations.

        Args:
            enable: Whether to.
        """
        self.backbone.set_grad_checkpointing(enable)  # type: ignore[operator]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The backbone's groups for layer-wise learning-rate decay, as timm defines it; the rest is the last one.

        Args:
            coarse: One group a stage instead of one a block.
        """
        groups = self.backbone.group_matcher(coarse)  # type: ignore[operator]
        return {name: _below(self.place, patterns) for name, patterns in groups.items()}


def is_own(backbone: str) -> bool:
    """Whether a name of timm's is of the family."""
    return backbone.partition(".")[0] in VARIANTS


def _below(prefix: str, patterns: Any) -> Any:
    """Patterns of timm's group matchers, a string or pairs of one and an order, for names below a prefix."""
    if isinstance(patterns, str):
        return patterns.replace("^", f"^{prefix}.".replace(".", r"\."), 1)
    return [(_below(prefix, pattern), order) for pattern, order in patterns]
