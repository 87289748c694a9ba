"""Programs of launches: kept once, replayed with new addresses, never for a call of another form."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from unireplknet.ops.triton import launch
from unireplknet.ops.triton.launch import Running

STREAM = 7


class Kernel:
    """A kernel that notes its calls: those through Triton, and those of what Triton compiled."""

    def __init__(self) -> None:
        self.found: list[tuple[Any, ...]] = []
        self.replayed: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., "Compiled"]:
        def call(*arguments: Any, num_warps: int) -> Compiled:
            self.found.append((grid, num_warps, *arguments))
            return Compiled(self)

        return call


class Compiled:
    """What Triton returns of a launch."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *values, stream: self.kernel.replayed.append((grid, stream, *values))


@pytest.fixture(autouse=True)
def _a_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors of the CPU stand for those of a card; theirs is device -1."""
    monkeypatch.setattr(launch, "_runs_on_card", lambda x: True)
    monkeypatch.setattr(launch, "_CAN_REPLAY", True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=STREAM))
    launch._programs.clear()
    yield
    launch._programs.clear()


def run(kernels: list[Kernel], x: Tensor, *rest: Any, replay: bool = True) -> None:
    """An operator that launches some kernels in turn."""
    with Running("operator", x, x, *rest, replay=replay):
        for i, kernel in enumerate(kernels):
            launch.launch(kernel, (3, i + 1), x, None, i, num_warps=8)


def test_a_second_call_launches_the_same_kernels_with_its_own_addresses() -> None:
    kernels, first, second = [Kernel(), Kernel()], torch.zeros(64), torch.zeros(64)
    run(kernels, first)
    run(kernels, second)
    for i, kernel in enumerate(kernels):
        assert [call[:2] for call in kernel.found] == [((3, i + 1), 8)]
        assert kernel.found[0][2] is first
        assert kernel.replayed == [((3, i + 1, 1, 1), STREAM, second.data_ptr(), None, i)]


@pytest.mark.parametrize(
    "other",
    [
        lambda x: (x.double(),),
        lambda x: (torch.zeros(65)[1:],),
        lambda x: (x[:32],),
        lambda x: (x, 5),
        lambda x: (x, torch.zeros(1)),
        lambda x: (x, None),
    ],
    ids=["dtype", "alignment", "shape", "number", "tensor", "none"],
)
def test_a_call_of_another_form_asks_triton_again(other: Callable[[Tensor], tuple[Any, ...]]) -> None:
    kernel, x = Kernel(), torch.zeros(64)
    run([kernel], x)
    run([kernel], *other(x))
    assert len(kernel.found) == 2
    assert not kernel.replayed


def test_a_call_that_fails_keeps_no_program() -> None:
    kernel, x = Kernel(), torch.zeros(64)

    def fail() -> None:
        with Running("operator", x, x):
            launch.launch(kernel, (1,), x)
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    run([kernel, kernel], x)
    assert len(kernel.found) == 3
    assert not kernel.replayed


@pytest.mark.parametrize("reason", ["tuned tiles", "old Triton"])
def test_what_other_things_decide_is_not_kept(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, x = Kernel(), torch.zeros(64)
    monkeypatch.setattr(launch, "_CAN_REPLAY", reason != "old Triton")
    for _ in range(2):
        run([kernel], x, replay=reason != "tuned tiles")
    assert len(kernel.found) == 2


def test_a_tensor_of_another_card_is_launched_there(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[torch.device] = []

    def enter(device: torch.device) -> nullcontext[None]:
        entered.append(device)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", enter)
    x = torch.zeros(64)
    run([Kernel()], x)
    assert entered == [x.device]


def test_an_operator_inside_another_has_a_program_of_its_own() -> None:
    outer, inner, x = Kernel(), Kernel(), torch.zeros(64)
    for _ in range(2):
        with Running("outer", x, x):
            launch.launch(outer, (1,), x)
            run([inner], x)
            launch.launch(outer, (2,), x)
    assert [call[0] for call in outer.replayed] == [(1, 1, 1), (2, 1, 1)]
    assert len(inner.replayed) == 1


def test_old_programs_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_MOST_PROGRAMS", 2)
    for size in (16, 32, 48):
        run([Kernel()], torch.zeros(size))
    assert len(launch._programs) == 1


def test_weights_of_another_shape_ask_triton_again() -> None:
    kernel, x = Kernel(), torch.zeros(64)
    for width in (16, 32):
        run([kernel], x, torch.zeros(width))
    assert len(kernel.found) == 2
    assert not kernel.replayed


def test_what_cannot_be_launched_again_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter returns None."""
    kernel, x = Kernel(), torch.zeros(64)
    monkeypatch.setattr(Kernel, "__getitem__", lambda self, grid: lambda *_, num_warps: self.found.append(grid))
    for _ in range(2):
        run([kernel], x)
    assert len(kernel.found) == 2


def test_records_may_be_nested() -> None:
    kernel, x = Kernel(), torch.zeros(64)
    with launch.recorded() as outer:
        with launch.recorded() as inner:
            pass
        launch.launch(kernel, (1,), x)
    assert (len(outer), len(inner), launch._records) == (1, 0, [])
