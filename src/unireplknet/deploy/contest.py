"""Networks, engines and batch sizes timed against each other, as a result that says how far it can be trusted."""

from __future__ import annotations

import importlib.metadata
import logging
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from unireplknet.deploy.benchmark import Clocks, Timing, describe_machine, take_turns
from unireplknet.deploy.disturbance import of_machine, of_turns
from unireplknet.deploy.entrants import DTYPES, ENGINES, LAYOUTS, RUNTIMES, Entrant, Manner, Ready, find_entrant
from unireplknet.errors import UserError, nearest
from unireplknet.ops import constant_weights

logger = logging.getLogger(__name__)

FORMAT = "unireplknet bench 1"
PACKAGES = ("torch", "timm", "numpy", "onnx", "onnxruntime", "openvino", "triton")
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.1}
"""Largest relative difference from the network run eagerly with which a contender is timed."""


@dataclass(frozen=True)
class Settings:
    """What to time, and how.

    Attributes:
        engines: Of :data:`~unireplknet.deploy.entrants.ENGINES`.
        batches: Samples of a call.
        manner: How to run.
        rounds: Turns of each contender.
        seconds: About how long a turn lasts; at least one call.
    """

    engines: tuple[str, ...] = ("eager",)
    batches: tuple[int, ...] = (8,)
    manner: Manner = field(default_factory=Manner)
    rounds: int = 10
    seconds: float = 0.1

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: A setting has no such value, or two of them exclude each other.
        """
        manner = self.manner
        for engine in self.engines:
            if engine not in ENGINES:
                raise UserError(f"no engine {engine!r}{nearest(engine, ENGINES)}; there are {', '.join(ENGINES)}")
        for value, choices in (
            (manner.dtype, DTYPES),
            (manner.mode, ("forward", "train")),
            (manner.layout, ("auto", *LAYOUTS)),
            (manner.device, ("cpu", "cuda", "mps")),
        ):
            if value not in choices:
                raise UserError(f"{value!r} is none of {', '.join(choices)}")
        numbers = {"batch": min(self.batches), "rounds": self.rounds, "threads": manner.threads}
        for name, number in numbers.items():
            if number < 1:
                raise UserError(f"{name} is {number}; expected at least 1")
        if manner.size < 0 or self.seconds < 0:
            raise UserError(f"size is {manner.size}, seconds {self.seconds:g}; expected no less than 0")
        for engine in set(self.engines) & set(RUNTIMES):
            if manner.mode == "train":
                raise UserError(f"{engine} does not train; mode train is for eager and compiled")
            if manner.device != "cpu":
                raise UserError(f"{engine} runs on the CPU here; device {manner.device} is for eager and compiled")
        if manner.device != "cpu" and not _available(manner.device):
            raise UserError(f"there is no device {manner.device} here; unireplknet doctor says why")


def paper_protocol(settings: Settings) -> Settings:
    """Batch 128 at the listed resolution on one device in float32, as the paper states its throughput.

    Source:
        Table 5 of the journal version, one A100; figure 1 says fp32.
    """
    return replace(settings, batches=(128,), manner=replace(settings.manner, dtype="fp32", mode="forward", size=0))


@dataclass
class Contender:
    """One row: an entrant, run by an engine with a batch size.

    Attributes:
        entrant: What runs.
        engine: What runs it.
        batch: Samples of a call.
        ready: How it is called, once it is built.
        failure: Why it is not timed.
    """

    entrant: Entrant
    engine: str
    batch: int
    ready: Ready | None = None
    failure: str = ""

    @property
    def key(self) -> str:
        """A name of its own."""
        return f"{self.entrant.name}, {self.engine}, batch {self.batch}"


def run_contest(models: Sequence[str], settings: Settings, clocks: Clocks | None = None) -> dict[str, Any]:
    """Time networks and files against each other.

    Args:
        models: Names that timm knows, and exported files.
        settings: How.
        clocks: What time is read from; by default the system's.

    Returns:
        Machine, versions, settings, signs of disturbance, and for each contender all rounds, or why it was not timed;
        ready for JSON.

    Raises:
        UserError: A model or setting does not exist, before anything is timed.
    """
    settings.check()
    entrants = [find_entrant(word, settings.manner) for word in dict.fromkeys(models)]
    contenders = [
        Contender(entrant, engine, batch)
        for entrant in entrants
        for batch in dict.fromkeys(settings.batches)
        for engine in entrant.engines(tuple(dict.fromkeys(settings.engines)))
    ]
    with _threads(settings.manner.threads), constant_weights(), TemporaryDirectory() as scratch:
        machine = describe_machine()
        for contender in contenders:
            _prepare(contender, settings.manner, Path(scratch))
        by_key = {contender.key: contender for contender in contenders}
        logger.info("%d rounds", settings.rounds)
        turns = take_turns(
            {key: contender.ready.call for key, contender in by_key.items() if contender.ready},
            settings.rounds,
            settings.seconds,
            clocks=clocks,
            wait=settings.manner.wait,
            failed=lambda key, error: setattr(by_key[key], "failure", _reason(error)),
        )
    cores = machine["cores"] or 1
    return {
        "format": FORMAT,
        "machine": machine | _accelerator(settings.manner.device),
        "versions": _versions(),
        "settings": {"models": list(models)} | asdict(settings),
        "disturbance": {
            "reasons": of_machine(turns.others, machine["load_average"], cores),
            "others_cores": turns.others or None,
            "load_average_before": machine["load_average"],
        },
        "contenders": [_row(c, turns.timings.get(c.key), settings.manner) for c in contenders],
    }


def _prepare(contender: Contender, manner: Manner, scratch: Path) -> None:
    """Build a contender, or note why that fails."""
    try:
        ready = contender.entrant.prepare(contender.engine, contender.batch, scratch)
        if ready.error is not None and not ready.error <= TOLERANCE[manner.dtype]:
            raise UserError(f"its outputs are not those of the network: relative error {ready.error:.1e}")
        contender.ready = ready
        logger.info("ready: %s", contender.key)
    except Exception as error:  # compilers and runtimes raise anything
        contender.failure = _reason(error)
        logger.info("failed: %s: %s", contender.key, contender.failure)


def _row(contender: Contender, timing: Timing | None, manner: Manner) -> dict[str, Any]:
    """A contender's part of the result."""
    published = contender.entrant.published
    row = {
        "model": contender.entrant.name,
        "engine": contender.engine,
        "batch": contender.batch,
        "failure": contender.failure or None,
        "published": asdict(published) if published else None,
    }
    if contender.ready is None or timing is None:
        return row
    return row | {
        "shape": list(contender.entrant.shape),
        "layout": contender.ready.layout,
        "relative_error": contender.ready.error,
        "peak_bytes": contender.ready.peak,
        "calls_a_turn": timing.calls,
        "wall_s": timing.wall,
        "cpu_s": timing.cpu,
        "minimum_s": timing.best,
        "median_s": timing.median,
        "cpu_median_s": statistics.median(timing.cpu),
        "images_per_second": contender.batch / timing.best,
        "images_per_second_median": contender.batch / timing.median,
        "disturbed": of_turns(timing.wall, timing.cpu, on_cpu=manner.device == "cpu"),
    }


def table(result: dict[str, Any]) -> list[str]:
    """A result as lines for people."""
    manner, rows = result["settings"]["manner"], result["contenders"]
    head = ("model", "engine", "batch", "px", "layout", "min", "median", "CPU", "img/s", "MiB", "top-1")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells if i < len(line)) for i in range(len(head))]
    text = {0, 1, 4}  # columns of words
    lines = [
        f"{manner['dtype']}, {manner['mode']}, {manner['device']}, threads: {result['machine']['threads']} of"
        f" {result['machine']['cores']} cores, {result['settings']['rounds']} rounds in turn; min, median and CPU in ms"
    ]
    for line, row in zip(cells, [None, *rows], strict=True):
        parts = [f"{c:{w}}" if i in text else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=False))]
        if row is not None and row["failure"]:
            parts.append(f"failed: {row['failure']}")
        elif row is not None:
            parts += [f"disturbed: {'; '.join(row['disturbed'])}"] * bool(row["disturbed"])
        lines.append("  ".join(parts).rstrip())
    return lines + _verdict(result)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    start = row["model"], row["engine"], str(row["batch"])
    if row["failure"]:
        return start
    milliseconds = (f"{row[key] * 1e3:.1f}" for key in ("minimum_s", "median_s", "cpu_median_s"))
    memory = "n/a" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.1f}"
    top1 = f"{row['published']['top1']:.1f}" if row["published"] else "-"
    speed = f"{row['images_per_second']:.1f}"
    return (*start, str(row["shape"][-1]), row["layout"], *milliseconds, speed, memory, top1)


def _verdict(result: dict[str, Any]) -> list[str]:
    """How far the figures can be trusted."""
    lines = [
        "img/s is that of the minimum; MiB is the most that a call holds beside weights and maps, n/a where nobody"
        " tells; top-1 is published, not measured here"
    ]
    found = result["disturbance"]
    reasons = list(found["reasons"])
    disturbed = sum(bool(row.get("disturbed")) for row in result["contenders"])
    if disturbed:
        reasons.append(f"{disturbed} of {len(result['contenders'])} contenders show it")
    if found["others_cores"] is None:
        lines.append('what other processes did was not measured: pip install "unireplknet[bench]"')
    if reasons:
        lines.append(f"DISTURBED: {'; '.join(reasons)}. Minima and their ratios are rough: repeat on an idle machine")
    else:
        lines.append("no disturbance was seen")
    return lines


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _available(device: str) -> bool:
    return torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()


def _accelerator(device: str) -> dict[str, Any]:
    """The device that did the work, and how float32 is computed there."""
    if device != "cuda":
        return {"device": device}
    tf32 = {"matmul": torch.backends.cuda.matmul.allow_tf32, "convolution": torch.backends.cudnn.allow_tf32}
    return {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda or torch.version.hip, "tf32": tf32}


def _versions() -> dict[str, str]:
    installed = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}


def _reason(error: Exception) -> str:
    """An error on one line."""
    line = " ".join(str(error).split())
    return (line if isinstance(error, UserError) else f"{type(error).__name__}: {line}")[:200]
