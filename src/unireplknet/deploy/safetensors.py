"""The merged weights as a safetensors file that says which network they are of."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from unireplknet.deploy.describe import names_of, recipe_of
from unireplknet.deploy.graph import HALF, Content, FileNetwork, one_line
from unireplknet.errors import UserError
from unireplknet.nn.blocks import reparameterize


def write_safetensors(content: Content, path: Path) -> None:
    """Write the weights, in half precision where that is wanted."""
    from safetensors.torch import save_file

    dtype = HALF.get(content.precision)
    state = {
        name: value.to(dtype if value.is_floating_point() and dtype else value.dtype).contiguous()
        for name, value in content.model.state_dict().items()
    }
    save_file(state, path, {"format": "pt", **content.metadata})


class SafetensorsNetwork(FileNetwork):
    """The network of a safetensors file, built by its metadata; it computes in float32.

    Args:
        path: The file.

    Raises:
        UserError: The file is not one of ours, or damaged.
    """

    runtime = "PyTorch"

    def __init__(self, path: Path) -> None:
        super().__init__()
        from safetensors import safe_open

        try:
            with safe_open(path, "pt") as file:
                self.metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except Exception as error:
            raise UserError(f"{path} is not a safetensors file: {one_line(error)}") from error
        recipe = recipe_of(self.metadata, path)
        self.network = reparameterize(recipe.build(names_of(self.metadata))).eval()
        try:
            self.network.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"{path} holds other weights than its metadata say: {one_line(error)}") from error

    def run(self, maps: Tensor) -> Tensor:
        """The outputs for maps, where the network is."""
        return self.network(maps)

    def forward(self, maps: Tensor) -> Tensor:
        """The outputs for maps (B, C, H, W): a network of PyTorch needs no way over the CPU."""
        return self.run(maps)
