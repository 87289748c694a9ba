"""What the compiler makes of the kernels that the networks launch, for cards that are not here.

A network runs on the meta device as on a card; its launches are compiled as their first call would be.
"""

from collections.abc import Hashable
from functools import cache

import pytest
import timm
import torch
from tests.ops.triton.ahead_of_time import Compiled, compile_launch
from torch import Tensor
from triton.backends.compiler import GPUTarget

import unireplknet
from unireplknet.ops import use_backend
from unireplknet.ops.triton.launch import Launch, LaunchRecorder

A100, H100, B200, RTX_50 = (GPUTarget("cuda", arch, 32) for arch in (80, 90, 100, 120))
MI300 = GPUTarget("hip", "gfx942", 64)
TARGETS = [A100, H100, B200, RTX_50, MI300]
# Bytes of shared memory that one block can have; for sm_80 that of sm_86, which runs the same code.
SHARED_LIMIT = {A100: 99 * 1024, H100: 227 * 1024, B200: 227 * 1024, RTX_50: 99 * 1024, MI300: 64 * 1024}
# Bytes a thread, in half precision: on an A100 the convolution at 28 px, on a B200 the weight gradient at 14 px; in
# float32 on an RTX 50 the convolutions. Nobody has timed these.
SPILL_LIMIT = {A100: 8, B200: 32, RTX_50: 16}
MATRIX = {A100: ("HMMA",), H100: ("HGMMA", "HMMA"), B200: ("UTC", "HMMA"), RTX_50: ("HMMA",), MI300: ("v_mfma",)}
CONVOLUTIONS = {"conv_kernel", "conv_transpose_kernel", "correlate_kernel"}
ATOMICS = ("ATOM.", "ATOMG", "RED.", "REDG", "global_atomic", "buffer_atomic")


@cache
def launches(name: str, dtype: torch.dtype, batch: int = 128, size: int = 224) -> tuple[Launch, ...]:
    """Launches of a training step and of a merged forward pass, one of each form that Triton compiles."""
    with torch.device("meta"):
        model = timm.create_model(name).to(dtype)
        x = torch.empty(batch, 3, size, size, dtype=dtype)
    recorder = LaunchRecorder()
    with use_backend("triton"), recorder:
        model(x).sum().backward()
        with torch.no_grad():
            unireplknet.reparameterize(model.eval())(x)
    return tuple({form(launch): launch for launch in recorder.launches}.values())


def form(launch: Launch) -> Hashable:
    """What Triton compiles a kernel anew for."""
    values: list[Hashable] = []
    for parameter in launch.kernel.params:
        value = launch.named[parameter.name]
        if isinstance(value, Tensor):
            values.append(value.dtype)
        elif parameter.is_constexpr or value is None:
            values.append(value)
        else:
            values.append((value == 1, value % 16 == 0) if not parameter.do_not_specialize else None)
    return launch.kernel.__name__, launch.num_warps, tuple(values)


def kernels(found: tuple[Launch, ...], names: set[str] | None = None) -> list[Launch]:
    """One launch of each kernel, or of each of those named."""
    return [
        launch
        for name, launch in {launch.kernel.__name__: launch for launch in found}.items()
        if names is None or name in names
    ]


def map_size(launch: Launch) -> tuple[int, int]:
    """Height and width of the first map that a convolution reads or writes."""
    return next(tuple(a.shape[-2:]) for a in launch.arguments if isinstance(a, Tensor) and a.dim() == 4)


def check(built: Compiled, spill: int = 0) -> None:
    where = f"{built.launch.kernel.__name__} on {built.target.arch}"
    assert built.local_bytes <= max(spill, SPILL_LIMIT.get(built.target, 0)), (
        f"{where}: {built.local_bytes} bytes spilled"
    )
    assert built.count(*ATOMICS) == 0, f"{where}: atomics add in no fixed order"
    assert built.shared_bytes <= SHARED_LIMIT[built.target], f"{where}: {built.shared_bytes} bytes of shared memory"
    if built.launch.kernel.__name__ in CONVOLUTIONS:
        assert built.count(*MATRIX[built.target]) > 0, f"{where}: no matrix instruction"
        height, width = map_size(built.launch)
        # Rows of 7 pixels start anywhere; all others of a network are read 8 or 16 bytes at a time, but for the bias.
        if height * width % 4 == 0:
            assert built.count("LDG.E.U16", "global_load_ushort") <= 1, f"{where}: pixels are loaded one at a time"


def check_all(found: list[Launch], target: GPUTarget, spill: int = 0) -> None:
    assert found
    for launch in found:
        check(compile_launch(launch, target), spill)


def test_the_check_finds_a_spill() -> None:
    launch = kernels(launches("unireplknet_a", torch.bfloat16), {"conv_kernel"})[0]
    built = compile_launch(launch._replace(num_warps=1), H100)
    with pytest.raises(AssertionError, match="spilled"):
        check(built)


def test_every_kernel_for_an_h100() -> None:
    found = kernels(launches("unireplknet_a", torch.bfloat16))
    assert {launch.kernel.__name__ for launch in found} > CONVOLUTIONS
    check_all(found, H100)


@pytest.mark.parametrize("target", [A100, B200, RTX_50, MI300], ids=lambda target: str(target.arch))
def test_the_convolutions_for_other_cards(target: GPUTarget) -> None:
    check_all(kernels(launches("unireplknet_a", torch.bfloat16), CONVOLUTIONS), target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.arch))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["unireplknet_a", "unireplknet_t"])
def test_every_launch_of_a_network(name: str, dtype: torch.dtype, target: GPUTarget) -> None:
    check_all(list(launches(name, dtype)), target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.arch))
@pytest.mark.parametrize(("batch", "size"), [(2, 800), (3, 75)])
def test_maps_of_dense_prediction_and_odd_ones(batch: int, size: int, target: GPUTarget) -> None:
    """Planes of odd length are read element by element, and every address takes registers."""
    check_all(list(launches("unireplknet_a", torch.bfloat16, batch, size)), target, spill=64)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.arch))
def test_float64_compiles(target: GPUTarget) -> None:
    """For checks of correctness: registers may spill."""
    for launch in launches("unireplknet_a", torch.float64):
        assert compile_launch(launch, target).shared_bytes <= SHARED_LIMIT[target]
