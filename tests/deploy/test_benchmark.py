import gc
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from unireplknet.deploy.benchmark import Clocks, describe_machine, peak_bytes, take_turns


class Machine:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.wall = self.cpu = self.busy = 0.0
        self.clocks = Clocks(lambda: self.wall, lambda: self.cpu, lambda: self.busy)

    def work(self, wall: float, cpu: float, others: float = 0.0) -> None:
        """Let a call of ours take its time, and other processes theirs meanwhile."""
        self.wall += wall
        self.cpu += cpu
        self.busy += cpu + others


def test_calls_take_turns_and_the_cache_is_filled_before_each() -> None:
    order: list[str] = []
    turns = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "a", "b", "b"] * 3
    assert {name: len(timing.wall) for name, timing in turns.timings.items()} == {"a": 2, "b": 2}


def test_times_are_those_of_a_call() -> None:
    machine = Machine()
    slow = iter([1.0, 1.0, 9.0, 1.5, 9.0, 2.0, 9.0, 4.0])  # each second one is counted
    turns = take_turns(
        {"slow": lambda: machine.work(next(slow), 3.0), "quick": lambda: machine.work(0.125, 0.25)},
        rounds=3,
        seconds=0.5,
        clocks=machine.clocks,
    )
    assert (turns.timings["slow"].calls, turns.timings["quick"].calls) == (1, 4)
    assert turns.timings["slow"].wall == [1.5, 2.0, 4.0]
    assert turns.timings["slow"].cpu == [3.0, 3.0, 3.0]
    assert turns.timings["quick"].wall == [0.125] * 3
    assert turns.timings["quick"].cpu == [0.25] * 3
    assert (turns.timings["slow"].best, turns.timings["slow"].median) == (1.5, 2.0)
    assert turns.best() == {"slow": 1.5, "quick": 0.125}
    assert turns.others == [0.0] * 3


def test_other_processes_are_measured_in_cores() -> None:
    machine = Machine()
    turns = take_turns({"a": lambda: machine.work(2.0, 3.0, others=1.5)}, rounds=2, clocks=machine.clocks)
    assert turns.others == [0.75, 0.75]
    machine.clocks = Clocks(machine.clocks.wall, machine.clocks.cpu, lambda: None)
    assert take_turns({"a": lambda: machine.work(1.0, 1.0)}, rounds=2, clocks=machine.clocks).others == []


def test_a_process_that_works_is_seen() -> None:
    pytest.importorskip("psutil")
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        turns = take_turns({"a": lambda: torch.randn(300, 300) @ torch.randn(300, 300)}, rounds=1, seconds=1.5)
    finally:
        other.kill()
        other.wait()
    assert turns.others[0] > 0.2


def test_no_round_starts_after_the_limit_beyond_the_third() -> None:
    machine = Machine()
    turns = take_turns({"a": lambda: machine.work(1.0, 1.0)}, rounds=20, limit=9, clocks=machine.clocks)
    assert len(turns.timings["a"].wall) == 5


def test_the_device_is_waited_for() -> None:
    machine, pending = Machine(), []

    def wait() -> None:
        machine.work(sum(pending), 0.0)
        pending.clear()

    turns = take_turns({"a": lambda: pending.append(2.0)}, rounds=1, clocks=machine.clocks, wait=wait)
    assert turns.timings["a"].wall == [2.0]


@pytest.mark.parametrize("good", [0, 1, 2, 5])
def test_a_call_that_fails_is_out(good: int) -> None:
    left, failures = iter(range(good)), {}

    def fail() -> None:
        try:
            next(left)
        except StopIteration:
            raise RuntimeError("no more") from None

    calls: dict[str, Callable[[], None]] = {"bad": fail, "good": lambda: None}
    turns = take_turns(calls, rounds=3, failed=lambda name, error: failures.update({name: str(error)}))
    assert failures == {"bad": "no more"}
    assert list(turns.timings) == ["good"]
    assert len(turns.timings["good"].wall) == 3
    with pytest.raises(RuntimeError, match="no more"):
        take_turns(calls, rounds=3)


def test_peak_counts_what_is_held_at_a_time() -> None:
    gc.collect()
    x = torch.ones(1000)

    def call() -> None:
        y = x * 2
        del y
        z = x * 3
        (z + 1).sum()

    assert 8000 <= peak_bytes(call) < 8100


def test_machine_is_described() -> None:
    found = describe_machine()
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"] >= 1
