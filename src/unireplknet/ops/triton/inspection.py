"""Compile launches for cards that are not there, and read what the compiler made of them."""

import math
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unireplknet.ops.triton.ops import Launch

_TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}


@dataclass(frozen=True)
class Compiled:
    """Machine code of one launch on one target.

    ``instructions`` are mnemonics with operands in program order, ``loops`` (first, last) positions in them,
    ``local_bytes`` is memory that spilled registers take per thread, ``shared_bytes`` is per block.
    """

    launch: Launch
    target: GPUTarget
    instructions: list[str]
    loops: list[tuple[int, int]]
    registers: int
    local_bytes: int
    shared_bytes: int

    def count(self, *prefixes: str, within: tuple[int, int] | None = None) -> int:
        """Instructions whose mnemonic starts with one of ``prefixes``."""
        first, last = within or (0, len(self.instructions) - 1)
        return sum(text.startswith(prefixes) for text in self.instructions[first : last + 1])

    def mnemonics(self, *prefixes: str) -> set[str]:
        """Distinct mnemonics that start with one of ``prefixes``."""
        return {text.split()[0] for text in self.instructions if text.startswith(prefixes)}

    @property
    def macs_per_step(self) -> float:
        """Multiply-adds that one warp does for one pair of tiles."""
        args, geometry = self.launch.args, self.launch.args["G"]
        products = 3 if args.get("precision") == "tf32x3" and args["x_ptr"].dtype == torch.float32 else 1
        return args.get("block_m", 0) * geometry.block_k * geometry.block_n * products / self.launch.num_warps

    def executed(self, steps: int) -> float:
        """Instructions that one warp issues, if the kernel multiplies ``steps`` pairs of tiles.

        The main loop is the one with the most matrix instructions. How often it runs follows from how many
        matrix instructions the work needs, whatever the compiler unrolled.
        """
        loop = max(self.loops, key=lambda span: self.count(*_MATRIX, within=span), default=None)
        inside = self.count(*_MATRIX, within=loop) if loop else 0
        if loop is None or inside == 0:
            return len(self.instructions)
        macs = sum(_macs(text) for text in self.instructions[loop[0] : loop[1] + 1])
        trips = steps * self.macs_per_step / macs
        return len(self.instructions) + (max(trips, 1) - 1) * (loop[1] - loop[0] + 1)


_MATRIX = ("HMMA", "HGMMA", "DMMA")


def _macs(instruction: str) -> float:
    """Multiply-adds that one warp's share of a matrix instruction does."""
    if match := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", instruction):
        return math.prod(map(int, match.groups())) / 4
    if match := re.match(r"[HD]MMA\.(16816|1688|884|8x8x4)", instruction):
        return {"16816": 2048, "1688": 1024, "884": 256, "8x8x4": 256}[match.group(1)]
    return 0


def compile_launch(launch: Launch, target: GPUTarget) -> Compiled:
    """Compile as the first call on that card would, with the specialisation that the arguments give.

    Args:
        launch: A launch; its tensors may be on the meta device.
        target: For instance ``GPUTarget("cuda", 90, 32)`` or ``GPUTarget("hip", "gfx942", 64)``.
    """
    kernel, args = launch.kernel, dict(launch.args)
    if target.backend == "hip" and "precision" in args:
        args["precision"] = "ieee"
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for parameter in kernel.params:
        value = args[parameter.name]
        specialised = not parameter.do_not_specialize
        if parameter.is_constexpr or (specialised and not isinstance(value, Tensor) and value == 1):
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
    instructions, loops = _parse(
        sass.splitlines(),
        r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(.+?)\s*;",
        r"\s*\.(L_\w+):",
        r"BRA.*`\(\.(L_\w+)\)",
    )
    registers, stack, local = map(int, re.search(r"REG:(\d+) STACK:(\d+).*LOCAL:(\d+)", usage).groups())  # type: ignore[union-attr]
    return Compiled(launch, target, instructions, loops, registers, stack + local, shared)


def _read_amdgcn(launch: Launch, target: GPUTarget, asm: dict[str, Any], shared: int) -> Compiled:
    text = asm["amdgcn"]
    instructions, loops = _parse(text.splitlines(), r"\t([a-z]\w+.*)", r"(\.LBB\w+):", r"s_c?branch\w*\s+(\.LBB\w+)")
    registers = int(re.search(r"\.vgpr_count:\s+(\d+)", text).group(1))  # type: ignore[union-attr]
    scratch = int(re.search(r"ScratchSize: (\d+)", text).group(1))  # type: ignore[union-attr]
    return Compiled(launch, target, instructions, loops, registers, scratch, shared)


def _parse(lines: Iterable[str], instruction: str, label: str, branch: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Instructions in order, and the spans between a label and a later branch back to it."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for line in lines:
        if match := re.match(label, line):
            labels[match.group(1)] = len(instructions)
        elif match := re.match(instruction, line):
            instructions.append(match.group(1))
            back = re.match(branch, match.group(1))
            # A program ends in a branch to itself, which is no loop.
            if back and labels.get(back.group(1), len(instructions)) < len(instructions) - 1:
                loops.append((labels[back.group(1)], len(instructions) - 1))
    return instructions, loops


def _tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
