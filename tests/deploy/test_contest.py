import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unireplknet.deploy import contest as module
from unireplknet.deploy.contest import Settings, paper_protocol, run_contest, table
from unireplknet.deploy.entrants import Manner, NetworkEntrant, Ready
from unireplknet.errors import UserError
from unireplknet.models.published import Accuracy

SMALL = Manner(size=32, layout="contiguous")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: Any) -> None:
    """The load of the machine that runs the tests is not what they are about."""
    monkeypatch.setattr("unireplknet.deploy.benchmark.load_average", lambda: 0.1)


class Machine:
    """A machine on which each call takes a second of both of its cores, and others take what they like."""

    def __init__(self, others: float = 0.0) -> None:
        self.wall, self.others = 0.0, others
        self.clocks = module.Clocks(lambda: self.wall, lambda: 2 * self.wall, lambda: (2 + self.others) * self.wall)

    def call(self) -> None:
        self.wall += 1.0


def contest(monkeypatch: Any, machine: Machine, **settings: Any) -> dict[str, Any]:
    """The result for two networks whose calls are those of the given machine."""
    monkeypatch.setattr(NetworkEntrant, "prepare", lambda *_: Ready(machine.call, "contiguous", peak=3 << 20))
    return run_contest(
        ["unireplknet_a", "convnextv2_atto"], Settings(manner=SMALL, rounds=3, **settings), machine.clocks
    )


def test_result_of_a_quiet_machine(monkeypatch: Any) -> None:
    monkeypatch.setattr(NetworkEntrant, "published", Accuracy("x", "", 32, 77.0, "nobody"))
    threads = torch.get_num_threads()
    result = contest(monkeypatch, Machine(), batches=(2, 4), engines=("eager", "compiled", "eager"))
    assert torch.get_num_threads() == threads
    rows = result["contenders"]
    assert [(row["model"], row["batch"], row["engine"]) for row in rows] == [
        (model, batch, engine)
        for model in ("unireplknet_a", "convnextv2_atto")
        for batch in (2, 4)
        for engine in ("eager", "compiled")
    ]
    assert rows[2] == {
        "model": "unireplknet_a",
        "engine": "eager",
        "batch": 4,
        "failure": None,
        "published": rows[2]["published"],
        "shape": [3, 32, 32],
        "layout": "contiguous",
        "relative_error": None,
        "peak_bytes": 3 << 20,
        "calls_a_turn": 1,
        "wall_s": [1.0] * 3,
        "cpu_s": [2.0] * 3,
        "minimum_s": 1.0,
        "median_s": 1.0,
        "cpu_median_s": 2.0,
        "images_per_second": 4.0,
        "images_per_second_median": 4.0,
        "disturbed": [],
    }
    assert result["disturbance"] == {"reasons": [], "others_cores": [0.0] * 3, "load_average_before": 0.1}
    assert {"date", "cpu", "cores", "threads", "system", "python"} <= result["machine"].keys()
    assert {"torch", "timm"} <= result["versions"].keys()
    assert result["settings"]["models"] == ["unireplknet_a", "convnextv2_atto"]
    assert result["settings"]["manner"]["dtype"] == "fp32"
    assert json.loads(json.dumps(result)) == json.loads(json.dumps(result, allow_nan=False))
    lines = table(result)
    cells = [
        ["unireplknet_a", "eager", "4", "32", "contiguous", "1000.0", "1000.0", "2000.0", "4.0", "3.0", "77.0"],
    ]
    assert lines[4].split() == cells[0]
    assert lines[-1] == "no disturbance was seen"


def test_disturbed_machine_is_told(monkeypatch: Any) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    result = contest(monkeypatch, Machine(others=0.5))
    assert result["disturbance"]["others_cores"] == [0.5] * 3
    assert result["disturbance"]["reasons"] == ["other processes took 0.50 of 2 cores"]
    assert table(result)[-1].startswith("DISTURBED: other processes took 0.50 of 2 cores. Minima")


def test_disturbed_contender_is_told(monkeypatch: Any) -> None:
    machine = Machine()
    lengths = iter([1.0, 1.0] * 2 + [1.0, 1.0, 1.0, 1.0] + [1.0, 2.0, 1.0, 1.0] * 2)
    monkeypatch.setattr(machine, "call", lambda: setattr(machine, "wall", machine.wall + next(lengths)))
    result = contest(monkeypatch, machine)
    assert [row["disturbed"] for row in result["contenders"]] == [["median 100% over minimum"], []]
    lines = table(result)
    assert lines[2].endswith("  disturbed: median 100% over minimum")
    assert lines[-1].startswith("DISTURBED: 1 of 2 contenders show it.")


def test_what_was_not_measured_is_said(monkeypatch: Any) -> None:
    machine = Machine()
    machine.clocks = module.Clocks(machine.clocks.wall, machine.clocks.cpu, lambda: None)
    result = contest(monkeypatch, machine)
    assert result["disturbance"]["others_cores"] is None
    assert table(result)[-2] == 'what other processes did was not measured: pip install "unireplknet[bench]"'
    assert " -" in table(result)[2]


def test_real_networks_and_a_failure_that_is_a_row(monkeypatch: Any) -> None:
    def no_compiler(_: Any) -> Any:
        raise RuntimeError("no C++ compiler\nanywhere")

    monkeypatch.setattr("unireplknet.deploy.entrants._compile", no_compiler)
    settings = Settings(("eager", "compiled"), (2,), SMALL, rounds=2, seconds=0.0)
    result = run_contest(["test_unireplknet", "test_resnet"], settings)
    assert [row["failure"] for row in result["contenders"]] == [None, "RuntimeError: no C++ compiler anywhere"] * 2
    for row in result["contenders"][::2]:
        assert len(row["wall_s"]) == len(row["cpu_s"]) == 2
        assert row["peak_bytes"] > 0
        assert row["minimum_s"] > 0
    lines = table(result)
    assert lines[3].endswith("failed: RuntimeError: no C++ compiler anywhere")
    assert len(lines[1:6]) == 5


def test_failure_while_others_are_timed_is_a_row(monkeypatch: Any) -> None:
    machine = Machine()

    def call() -> None:
        machine.call()
        if machine.wall > 9:
            raise MemoryError("full")

    monkeypatch.setattr(machine, "call", machine.call)
    calls = iter([machine.call, call])
    monkeypatch.setattr(NetworkEntrant, "prepare", lambda *_: Ready(next(calls), "contiguous"))
    result = run_contest(["unireplknet_a", "convnextv2_atto"], Settings(manner=SMALL, rounds=4), machine.clocks)
    assert [row["failure"] for row in result["contenders"]] == [None, "MemoryError: full"]
    assert len(result["contenders"][0]["wall_s"]) == 4
    assert "wall_s" not in result["contenders"][1]


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_wrong_outputs_are_not_timed(monkeypatch: Any, error: float) -> None:
    monkeypatch.setattr(NetworkEntrant, "prepare", lambda *_: Ready(lambda: None, "contiguous", error=error))
    (row,) = run_contest(["unireplknet_a"], Settings(manner=SMALL))["contenders"]
    assert row["failure"].startswith("its outputs are not those of the network: relative error")
    assert "minimum_s" not in row


def test_train_step_is_timed() -> None:
    manner = Manner(size=32, mode="train", layout="contiguous")
    result = run_contest(["test_unireplknet"], Settings(batches=(2,), manner=manner, rounds=1, seconds=0.0))
    assert result["contenders"][0]["failure"] is None
    assert ", train, cpu, " in table(result)[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(("eagr",)), r"no engine 'eagr'; did you mean eager\?; there are eager, compiled, onnxruntime"),
        (Settings(batches=(8, 0)), "batch is 0; expected at least 1"),
        (Settings(rounds=0), "rounds is 0"),
        (Settings(manner=Manner(threads=0)), "threads is 0"),
        (Settings(manner=Manner(size=-1)), "size is -1"),
        (Settings(manner=Manner(dtype="fp8")), "'fp8' is none of fp32, bf16, fp16"),
        (Settings(("onnxruntime",), manner=Manner(mode="train")), "onnxruntime does not train"),
        (Settings(("openvino",), manner=Manner(device="mps")), "openvino runs on the CPU here"),
    ],
)
def test_mistakes(settings: Settings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_contest(["unireplknet_a"], settings)


def test_device_that_is_not_there(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="there is no device cuda here"):
        run_contest(["unireplknet_a"], Settings(manner=Manner(device="cuda")))


def test_unknown_model_is_told_before_anything_is_built(monkeypatch: Any) -> None:
    monkeypatch.setattr(NetworkEntrant, "prepare", lambda *_: pytest.fail("built"))
    with pytest.raises(UserError, match="unireplknet_q is neither"):
        run_contest(["unireplknet_a", "unireplknet_q"], Settings(manner=SMALL))


def test_protocol_of_the_paper() -> None:
    settings = paper_protocol(Settings(("compiled",), (8, 16), Manner("bf16", "train", "cpu", "auto", 64, 2), 5))
    assert settings == Settings(("compiled",), (128,), Manner("fp32", "forward", "cpu", "auto", 0, 2), 5)


def test_scratch_files_are_gone(monkeypatch: Any) -> None:
    seen: list[Path] = []

    def prepare(_: Any, engine: str, batch: int, scratch: Path) -> Ready:
        (scratch / "a.onnx").write_bytes(b"x")
        seen.append(scratch)
        return Ready(lambda: None, "contiguous")

    monkeypatch.setattr(NetworkEntrant, "prepare", prepare)
    run_contest(["unireplknet_a"], Settings(manner=SMALL, rounds=1))
    assert not seen[0].exists()
