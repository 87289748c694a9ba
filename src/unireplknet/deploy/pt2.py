"""A network as PyTorch's .pt2 files: a graph (torch.export), or machine code for this kind of processor (AOTInductor).

Neither needs this package. The second needs no Python either, and a C++ compiler to make it.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unireplknet.deploy.graph import Content, FileNetwork, one_line
from unireplknet.errors import UserError

METADATA = "metadata.json"
CODE = "data/aotinductor/"
"""Where in an archive compiled networks are."""


def write_torch_export(content: Content, path: Path) -> None:
    """Write a graph that ``torch.export.load`` reads."""
    text = json.dumps(content.metadata, ensure_ascii=False)
    torch.export.save(content.in_precision().trace(), path, extra_files={METADATA: text})


def write_aoti(content: Content, path: Path) -> None:
    """Write a compiled network that ``torch._inductor.aoti_load_package`` reads.

    Raises:
        UserError: There is no C++ compiler, or it fails.
    """
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise UserError("aoti needs a C++ compiler, and there is none; --to torch-export needs none") from error
    program = content.in_precision().trace()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            settings = {"aot_inductor.metadata": content.metadata}
            aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
    except Exception as error:
        name = type(content.model).__name__
        raise UserError(f"this {name} cannot be compiled: {one_line(error)}; --to torch-export does not") from error


def holds_machine_code(path: Path) -> bool:
    """Whether a .pt2 file is a compiled network, and not a graph; it is not run to find out.

    Raises:
        UserError: It is no .pt2 file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return any(CODE in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def open_pt2(path: Path) -> FileNetwork:
    """A .pt2 file as a module.

    Raises:
        UserError: PyTorch cannot read the file.
    """
    kind = AotiNetwork if holds_machine_code(path) else TorchExportNetwork
    try:
        return kind(path)
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is not a .pt2 file that PyTorch reads: {one_line(error)}")


class TorchExportNetwork(FileNetwork):
    """A graph of torch.export as a module.

    Args:
        path: The file.
    """

    runtime = "torch.export"

    def __init__(self, path: Path) -> None:
        super().__init__()
        texts: dict[str, Any] = {METADATA: "{}"}
        program = torch.export.load(path, extra_files=texts)
        self.metadata = json.loads(texts[METADATA] or "{}")
        (name,) = program.graph_signature.user_inputs
        (maps,) = (node.meta["val"] for node in program.graph.nodes if node.name == name)
        self.sides = tuple(side if isinstance(side, int) else 0 for side in maps.shape[1:])
        self.call = program.module().forward  # not the module itself, which cannot be moved or put into eval()

    @property
    def fixed(self) -> tuple[int, ...]:
        """Channels, height and width that the graph fixes; 0 where it takes any."""
        return self.sides

    def run(self, maps: Tensor) -> Tensor:
        """The outputs for maps on the CPU."""
        return self.call(maps)


class AotiNetwork(FileNetwork):
    """A compiled network as a module. Reading it runs the machine code in it.

    Args:
        path: The file.
    """

    runtime = "AOTInductor"

    def __init__(self, path: Path) -> None:
        super().__init__()
        from torch._inductor import aoti_load_package

        self.call = aoti_load_package(str(path))
        self.metadata = dict(self.call.get_metadata())

    def run(self, maps: Tensor) -> Tensor:
        """The outputs for maps on the CPU."""
        return self.call(maps)
