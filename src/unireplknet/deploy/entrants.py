"""What can be timed: networks and exported files, and the engines that run them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
import torch.nn.functional as F
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from unireplknet.deploy.benchmark import peak_bytes, take_turns
from unireplknet.deploy.graph import Content, FileNetwork
from unireplknet.deploy.openvino import OpenVinoNetwork
from unireplknet.deploy.pt2 import holds_machine_code
from unireplknet.deploy.safetensors import SafetensorsNetwork
from unireplknet.deploy.targets import SUFFIXES, TARGETS, Target
from unireplknet.errors import UserError, nearest
from unireplknet.models.published import Accuracy, find_accuracy

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
TORCH = ("eager", "compiled")
THROUGH = {"onnxruntime": TARGETS["onnx"], "openvino": TARGETS["onnx"], "aoti": TARGETS["aoti"]}
"""By engine that is not PyTorch: the format of the temporary file by which it gets a network."""
RUNTIMES = tuple(THROUGH)
ENGINES = TORCH + RUNTIMES
FILES = {
    ".onnx": ("onnxruntime", "openvino"),
    ".xml": ("openvino",),
    ".pt2": (*TORCH, "aoti"),  # the first two where it is a graph, the third where it is machine code
    ".safetensors": ENGINES,
}
"""By ending of an exported file: the engines that run it, its own first."""


@dataclass(frozen=True)
class Manner:
    """How to run.

    Attributes:
        dtype: fp32, bf16 or fp16.
        mode: forward, or train: forward, loss and backward.
        device: cpu, cuda or mps.
        layout: channels_last, contiguous, or auto: what is faster for the network when it runs eagerly.
        size: Height and width of maps in pixels; 0: as listed for each network.
        threads: Threads of the CPU.
    """

    dtype: str = "fp32"
    mode: str = "forward"
    device: str = "cpu"
    layout: str = "auto"
    size: int = 0
    threads: int = 1

    def wait(self) -> None:
        """Return once the device is done."""
        if self.device != "cpu":
            getattr(torch, self.device).synchronize()


@dataclass(frozen=True)
class Ready:
    """An entrant that is ready to be timed.

    Attributes:
        call: Runs it once.
        layout: Memory layout of its maps.
        error: Largest difference of its outputs from those of the network run eagerly, over the largest output.
        peak: Most bytes that a call holds beside weights and maps; None where nobody tells.
    """

    call: Callable[[], Any]
    layout: str
    error: float | None = None
    peak: int | None = None


class Entrant(Protocol):
    """Something to time."""

    name: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its maps."""

    @property
    def published(self) -> Accuracy | None:
        """What is published about it."""

    def engines(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the wanted engines that run it."""

    def prepare(self, engine: str, batch: int, scratch: Path) -> Ready:
        """Build it and call it once; files that it needs go to ``scratch``."""


def find_entrant(word: str, manner: Manner) -> Entrant:
    """An exported file, or a network that timm knows, which ours are among.

    Raises:
        UserError: There is no such file or network, or it cannot be run in this manner.
    """
    if Path(word).suffix in FILES:
        if not Path(word).is_file():
            raise UserError(f"{word} is not a file")
        if manner.mode == "train":
            raise UserError(f"{word} is an exported file, which cannot be trained")
        if Path(word).suffix == ".safetensors":
            return WeightsEntrant(word, manner)
        if manner.device != "cpu":
            raise UserError(f"{word} is an exported file, which runs on the CPU here; device is {manner.device}")
        return FileEntrant(word, manner)
    base = word.partition(".")[0]
    if not timm.is_model(base):
        ends = " or ".join(FILES)
        hint = nearest(word, timm.list_models())
        raise UserError(f"{word} is neither a network of timm nor an exported file ({ends}){hint}")
    try:
        get_pretrained_cfg(word, allow_unregistered=False)
    except RuntimeError as error:
        raise UserError(f"{word}: {str(error).rstrip('.')}") from error
    return NetworkEntrant(word, manner)


class NetworkEntrant:
    """A network of timm with random weights; ours are merged for inference.

    Args:
        name: As timm names it.
        manner: How to run it.
    """

    def __init__(self, name: str, manner: Manner) -> None:
        self.name, self.manner = name, manner
        self.layout = manner.layout

    @cached_property
    def config(self) -> Any:
        """What timm says about its weights."""
        return get_pretrained_cfg(self.name, allow_unregistered=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its maps."""
        channels, *listed = self.config.input_size
        height, width = (self.manner.size, self.manner.size) if self.manner.size else listed
        return channels, height, width

    @property
    def published(self) -> Accuracy | None:
        """What is published about the weights of its name, or about the first ones of its architecture."""
        base, _, tag = self.name.partition(".")
        _, height, width = self.shape
        if height != width or [height, width] != list(self.config.input_size[1:]):
            return None
        return find_accuracy(base, tag or self.config.tag or "", height) or (
            None if tag else find_accuracy(base, "", height)
        )

    def engines(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """All of them."""
        return wanted

    def prepare(self, engine: str, batch: int, scratch: Path) -> Ready:
        """Build it and call it once; files that it needs go to ``scratch``."""
        maps = self._maps(batch)
        if self.layout == "auto":
            self._choose_layout(maps)
        if engine in RUNTIMES:
            run = load_file(self._written(THROUGH[engine], scratch), engine, maps, self.manner)
            return Ready(run, "contiguous", error=self._error(run(), maps))
        maps = maps.to(memory_format=LAYOUTS[self.layout])
        model = self.model.to(memory_format=LAYOUTS[self.layout])
        call = _call(_compile(model) if engine == "compiled" else model, maps, self.manner.mode)
        outputs = call()
        compare = engine != "eager" and self.manner.mode == "forward"
        error = self._error(outputs, maps) if compare else None
        return Ready(call, self.layout, error, _peak(call, engine, self.manner.device))

    @cached_property
    def model(self) -> nn.Module:
        """The network, as it is timed."""
        return self._build().to(self.manner.device, DTYPES[self.manner.dtype])

    def _build(self) -> nn.Module:
        training = self.manner.mode == "train"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = timm.create_model(self.name).train(training)
        if not training and hasattr(model, "reparameterize"):
            model.reparameterize()
        return model

    def _maps(self, batch: int) -> Tensor:
        maps = torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(0))
        return maps.to(self.manner.device, DTYPES[self.manner.dtype])

    def _choose_layout(self, maps: Tensor) -> None:
        calls = {}
        for name, layout in LAYOUTS.items():
            model = copy.deepcopy(self.model).to(memory_format=layout)
            calls[name] = _call(model, maps.to(memory_format=layout), self.manner.mode)
        seconds = take_turns(calls, rounds=3, wait=self.manner.wait).best()
        self.layout = min(seconds, key=seconds.__getitem__)

    def _written(self, target: Target, scratch: Path) -> Path:
        name = hashlib.sha256(self.name.encode()).hexdigest()  # which a path is no file name for
        file = scratch / f"{name}{target.suffix}"
        if not file.exists():
            write_unverified(self.model, self.shape, target, file)
        return file

    def _error(self, outputs: Tensor, maps: Tensor) -> float:
        wanted = _call(self.model, maps, "forward")().float()
        return ((outputs.float() - wanted).abs().max() / wanted.abs().max()).item()


class WeightsEntrant(NetworkEntrant):
    """A file of merged weights: the network itself, which every engine runs.

    Args:
        name: The file.
        manner: How to run it.
    """

    @cached_property
    def file(self) -> SafetensorsNetwork:
        """The file, opened."""
        return SafetensorsNetwork(Path(self.name))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its maps."""
        return _choose_shape(self.file, self.name, self.manner.size)

    @property
    def published(self) -> None:
        """Nothing: its weights are somebody's own."""

    def _build(self) -> nn.Module:
        return self.file.network


class FileEntrant:
    """An exported file that holds a graph or machine code.

    Args:
        name: The file.
        manner: How to run it.
    """

    published = None

    def __init__(self, name: str, manner: Manner) -> None:
        self.name, self.manner, self.file = name, manner, Path(name)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its maps."""
        return _choose_shape(SUFFIXES[self.file.suffix](self.file), self.name, self.manner.size)

    def engines(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the wanted engines that run it; where there is none, its own."""
        able = FILES[self.file.suffix]
        if self.file.suffix == ".pt2":
            able = ("aoti",) if holds_machine_code(self.file) else TORCH
        return tuple(engine for engine in wanted if engine in able) or able[:1]

    def prepare(self, engine: str, batch: int, scratch: Path) -> Ready:
        """Load it and call it once."""
        maps = torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(0))
        run = load_file(self.file, engine, maps, self.manner)
        run()
        return Ready(run, "contiguous", peak=_peak(run, engine, self.manner.device))


def _choose_shape(file: FileNetwork, name: str, size: int) -> tuple[int, int, int]:
    """Channels, height and width of maps: what a file fixes, what was asked, or what export wrote into it.

    Raises:
        UserError: The file leaves the size open, and no size was asked for.
    """
    channels, height, width = (f or a or b for f, a, b in zip(file.fixed, (0, size, size), file.listed, strict=True))
    if not channels:
        raise UserError(f"{name} does not say how many channels its maps have")
    if not (height and width):
        raise UserError(f"{name} takes maps of any size: add --size")
    return channels, height, width


def write_unverified(model: nn.Module, shape: tuple[int, int, int], target: Target, path: Path) -> None:
    """Write a file of any network, as it is, for maps of one size; it is compared with nothing."""
    target.write(Content(copy.deepcopy(model).eval().float().cpu(), shape, False, "fp32", {}), path)


def load_file(file: Path, engine: str, maps: Tensor, manner: Manner) -> Callable[[], Tensor]:
    """What runs an exported file once on the given maps.

    Raises:
        UserError: The engine is not installed, or cannot run the file in this manner.
    """
    maps = maps.float().contiguous()
    if engine == "openvino":
        return OpenVinoNetwork(file, manner.dtype, maps.shape).in_place(maps)
    if manner.dtype != "fp32":
        raise UserError(f"{engine} runs a file in the precision that it has: dtype is for networks, and for OpenVINO")
    run = SUFFIXES[file.suffix](file).run
    return _call(_compile(run) if engine == "compiled" else run, maps, "forward")


def _compile(model: Any) -> Any:
    """Compile apart from other networks: else a class that is compiled often is one day silently run eagerly."""
    return torch.compile(model, dynamic=False, isolate_recompiles=True)  # type: ignore[call-overload]


def _call(model: Callable[[Tensor], Tensor], maps: Tensor, mode: str) -> Callable[[], Tensor]:
    """Inference, or forward, loss and backward; gradients are dropped as an optimiser would after its step."""

    @torch.inference_mode()
    def forward() -> Tensor:
        return model(maps)

    def train() -> Tensor:
        outputs = model(maps).float()
        loss = F.cross_entropy(outputs, torch.zeros(len(maps), dtype=torch.int64, device=maps.device))
        loss.backward()
        model.zero_grad(set_to_none=True)  # type: ignore[attr-defined]
        return loss.detach()

    return train if mode == "train" else forward


def _peak(call: Callable[[], Any], engine: str, device: str) -> int | None:
    """Bytes that a call holds at most: by CUDA's allocator, or the storages of operators that run one by one."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    return peak_bytes(call) if engine == "eager" else None
