import os
import sys
import time
from typing import Any

import pytest

from unireplknet.deploy.disturbance import load_average, machine_seconds, of_machine, of_turns


@pytest.mark.parametrize(
    ("others", "load", "cores", "wanted"),
    [
        ([0.0, 0.08], 0.1, 2, []),
        ([], None, 2, []),
        ([0.1, 0.5], 0.1, 2, ["other processes took 0.30 of 2 cores"]),
        ([0.3], 1.0, 16, []),
        ([], 1.5, 2, ["load average 1.5 on 2 cores before the start"]),
        (
            [2.0],
            3.04,
            2,
            ["other processes took 2.00 of 2 cores", "load average 3.0 on 2 cores before the start"],
        ),
    ],
)
def test_of_machine(others: list[float], load: float | None, cores: int, wanted: list[str]) -> None:
    assert of_machine(others, load, cores) == wanted


@pytest.mark.parametrize(
    ("wall", "cpu", "wanted"),
    [
        ([1.0, 1.02, 1.05], [2.0, 2.0, 2.1], []),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], []),
        ([1.0, 1.05, 9.0], [2.0, 2.1, 2.1], []),  # one bad turn of three moves neither median
        ([1.0, 1.3, 1.3], [2.0, 2.6, 2.6], ["median 30% over minimum"]),
        ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5], ["it waited: wall/CPU 2.00, at best 2.00"]),
        ([1.0, 1.05, 1.05], [2.0, 1.5, 1.5], ["it waited: wall/CPU 0.70, at best 0.50"]),
        ([1.0], [0.0], []),  # the clock did not tick
    ],
)
def test_of_turns(wall: list[float], cpu: list[float], wanted: list[str]) -> None:
    assert of_turns(wall, cpu) == wanted


def test_cpu_time_says_nothing_of_another_device() -> None:
    assert of_turns([1.0, 1.0], [0.1, 0.1], on_cpu=False) == []


def test_machine_works_at_least_as_much_as_this_process() -> None:
    pytest.importorskip("psutil")
    before, own = machine_seconds(), time.process_time()
    assert before is not None
    while time.process_time() - own < 0.3:
        pass
    after = machine_seconds()
    assert after is not None
    assert 0.2 < after - before < 1000


def test_without_psutil_nobody_tells(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert machine_seconds() is None


def test_load_average_where_the_system_counts_it(monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0, 0), raising=False)
    assert load_average() == 1.5
    monkeypatch.delattr(os, "getloadavg")
    assert load_average() is None
