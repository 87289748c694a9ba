"""Compile launches for cards that are not there, and read what the compiler made of them."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unireplknet.ops.triton.launch import Launch

_TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int32: "i32",
}


@dataclass(frozen=True)
class Compiled:
    """Machine code of one launch on one target.

    ``instructions`` are mnemonics with operands in program order, ``local_bytes`` is memory that spilled registers
    take per thread, ``shared_bytes`` is per block.
    """

    launch: Launch
    target: GPUTarget
    instructions: list[str]
    registers: int
    local_bytes: int
    shared_bytes: int

    def count(self, *prefixes: str) -> int:
        """Instructions whose mnemonic starts with one of ``prefixes``."""
        return sum(text.startswith(prefixes) for text in self.instructions)

    def mnemonics(self, *prefixes: str) -> set[str]:
        """Distinct mnemonics that start with one of ``prefixes``."""
        return {text.split()[0] for text in self.instructions if text.startswith(prefixes)}


def compile_launch(launch: Launch, target: GPUTarget) -> Compiled:
    """Compile as the first call on that card would, with the specialisation that the arguments give.

    Args:
        launch: A launch; its tensors may be on the meta device.
        target: For instance ``GPUTarget("cuda", 90, 32)`` or ``GPUTarget("hip", "gfx942", 64)``.
    """
    kernel, args = launch.kernel, launch.named
    if target.backend == "hip" and "precision" in args:
        args["precision"] = "ieee"
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for parameter in kernel.params:
        value = args[parameter.name]
        specialised = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (specialised and not isinstance(value, Tensor) and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        if isinstance(value, Tensor):
            signature[parameter.name] = "*" + _TYPES[value.dtype]
        else:
            signature[parameter.name] = "i32" if value < 2**31 else "i64"
        if isinstance(value, Tensor) or (specialised and value % 16 == 0):
            attributes[(parameter.num,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    built = triton.compile(source, target=target, options={"num_warps": launch.num_warps})
    read = _read_amdgcn if target.backend == "hip" else _read_cubin
    return read(launch, target, built.asm, built.metadata.shared)


def _read_cubin(launch: Launch, target: GPUTarget, asm: dict[str, Any], shared: int) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(asm["cubin"])
        sass = _tool(triton.knobs.nvidia.nvdisasm.path, "-c", str(path))
        usage = _tool(triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(path))
    instructions = _parse(sass, r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(.+?)\s*;")
    registers, stack, local = map(int, re.search(r"REG:(\d+) STACK:(\d+).*LOCAL:(\d+)", usage).groups())  # type: ignore[union-attr]
    return Compiled(launch, target, instructions, registers, stack + local, shared)


def _read_amdgcn(launch: Launch, target: GPUTarget, asm: dict[str, Any], shared: int) -> Compiled:
    text = asm["amdgcn"]
    instructions = _parse(text, r"\t([a-z]\w+.*)")
    registers = int(re.search(r"\.vgpr_count:\s+(\d+)", text).group(1))  # type: ignore[union-attr]
    scratch = int(re.search(r"ScratchSize: (\d+)", text).group(1))  # type: ignore[union-attr]
    return Compiled(launch, target, instructions, registers, scratch, shared)


def _parse(text: str, instruction: str) -> list[str]:
    matches = (re.match(instruction, line) for line in text.splitlines())
    return [match.group(1) for match in matches if match]


def _tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
