"""What the compiler makes of the shipped configurations, without a card."""

import pytest
import torch
from triton.backends.compiler import GPUTarget

from unireplknet.ops.triton import ops
from unireplknet.ops.triton.inspection import Compiled, compile_launch

AMPERE, HOPPER, BLACKWELL = (GPUTarget("cuda", arch, 32) for arch in (80, 90, 120))
CDNA = GPUTarget("hip", "gfx942", 64)
# Bytes of shared memory that one block can have; for sm_80 that of sm_86, which runs the same code.
SHARED_LIMIT = {AMPERE: 99 * 1024, HOPPER: 227 * 1024, BLACKWELL: 99 * 1024, CDNA: 64 * 1024}

# Batch, channels, height, width, kernel, dilation: a model's stages, dense prediction, other maps.
STAGES = [(128, 160, 28, 28, 13, 1), (128, 320, 14, 14, 13, 1), (128, 640, 7, 7, 13, 1)]
MODEL = [
    *STAGES,
    (128, 80, 56, 56, 3, 1),
    (128, 40, 56, 56, 7, 1),
    (2, 160, 100, 168, 13, 1),
    (8, 24, 96, 96, 31, 1),
    (64, 384, 32, 32, 31, 1),
    (8, 160, 28, 28, 51, 1),
    (128, 160, 28, 28, 7, 2),
    (128, 160, 28, 28, 3, 5),
    (128, 320, 14, 14, 5, 1),
    (128, 320, 14, 14, 3, 3),
    (128, 640, 7, 7, 3, 4),
    (32, 288, 12, 12, 13, 1),
    (5, 27, 15, 21, 17, 1),
    (16, 40, 13, 13, 13, 1),
    (16, 27, 7, 9, 13, 1),
    (16, 40, 31, 43, 13, 1),
    (2, 40, 25, 67, 13, 1),
]


def launches(shape, dtype) -> list[ops.Launch]:
    batch, channels, height, width, kernel, dilation = shape
    with torch.device("meta"):
        x = torch.empty(batch, channels, height, width, dtype=dtype)
        weight = torch.empty(channels, 1, kernel, kernel)
        bias = torch.empty(channels)
    return [
        *ops.conv_launches(x, weight, bias, x, dilation, flip=False),
        *ops.grad_weight_launches(x, x, weight, dilation),
    ]


def check(built: Compiled, shape, dtype) -> None:
    where = f"{built.launch.kernel.fn.__name__} {shape} {dtype} {built.target.arch}"
    assert built.local_bytes == 0, f"{where}: {built.local_bytes} bytes of local memory"
    assert built.count("LDL", "STL", "scratch_") == 0, where
    assert built.count("ATOM", "RED.", "REDG", "global_atomic", "buffer_atomic") == 0, where
    assert built.shared_bytes <= SHARED_LIMIT[built.target], where
    if "x_ptr" not in built.launch.args:
        return
    matrix = {
        AMPERE: "HMMA",
        HOPPER: "HGMMA" if dtype.itemsize == 2 else "H",
        BLACKWELL: "HMMA",
        CDNA: "v_mfma",
    }
    assert built.count(matrix[built.target]) > 0, where
    height, width = shape[2:4]
    if (height * width) % 4 == 0 or (height, width) == (7, 7):
        # Four elements at a time at least: 8 bytes in half precision.
        wide = {2: (".64", ".128", "dwordx2", "dwordx4"), 4: (".128", "dwordx4")}[dtype.itemsize]
        loads = {m for m in built.mnemonics("LDG.", "LDGSTS", "global_load", "buffer_load") if "lds" not in m}
        if "grad_ptr" not in built.launch.args:
            # The one narrow load is the bias.
            loads -= {"LDG.E", "LDG.E.CONSTANT", "global_load_dword", "s_load_dword"}
        assert loads, where
        assert all(load.endswith(wide) for load in loads), f"{where}: {loads}"


@pytest.mark.parametrize("target", [AMPERE, HOPPER, BLACKWELL, CDNA], ids=lambda t: str(t.arch))
@pytest.mark.parametrize("shape", STAGES, ids=lambda s: f"{s[2]}px")
def test_stages_in_bfloat16(shape, target: GPUTarget) -> None:
    for launch in launches(shape, torch.bfloat16):
        check(compile_launch(launch, target), shape, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("target", [AMPERE, HOPPER, BLACKWELL, CDNA], ids=lambda t: str(t.arch))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", MODEL, ids=lambda s: "-".join(map(str, s)))
def test_every_shipped_configuration(shape, dtype, target: GPUTarget) -> None:
    for launch in launches(shape, dtype):
        check(compile_launch(launch, target), shape, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("target", [AMPERE, HOPPER, BLACKWELL, CDNA], ids=lambda t: str(t.arch))
@pytest.mark.parametrize("shape", STAGES, ids=lambda s: f"{s[2]}px")
def test_float64_compiles(shape, target: GPUTarget) -> None:
    """Speed is no aim here, so registers may spill."""
    for launch in launches(shape, torch.float64):
        assert compile_launch(launch, target).shared_bytes <= SHARED_LIMIT[target]


def test_executed_instructions_follow_the_trip_count() -> None:
    """A long sum over the batch costs its loop body once per tile, whatever the unrolling."""
    launch = launches((128, 160, 28, 28, 13, 1), torch.bfloat16)[2]
    built = compile_launch(launch, HOPPER)
    (first, last) = max(built.loops, key=lambda span: span[1] - span[0])
    assert built.executed(101) - built.executed(1) == pytest.approx(100 * (last - first + 1), rel=0.01)
