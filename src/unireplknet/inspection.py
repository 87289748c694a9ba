"""Looking into networks: which one, at which samples, and into which files the pictures of ``insight`` go."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from unireplknet.data.dataset import Draw, MapDataset
from unireplknet.data.files import find_inputs
from unireplknet.errors import UserError, nearest
from unireplknet.files import write_text
from unireplknet.insight.field import Field, draw_fields, last_map, open_branches, receptive_field
from unireplknet.insight.kernels import draw_kernels, first_of_each_stage, reparam_blocks, summarise
from unireplknet.models.variants import VARIANTS
from unireplknet.registry import DEFAULT_MODALITY, MODALITIES
from unireplknet.training.run import Run


@dataclass(frozen=True)
class Subject:
    """A network to look into.

    Attributes:
        name: What to call it.
        model: The network, in evaluation mode.
        inputs: How a file becomes its map.
        trained: Whether its weights are more than random numbers.
        run: Where it comes from, unless from timm's registry.
    """

    name: str
    model: nn.Module
    inputs: Any
    trained: bool
    run: Run | None = None

    @property
    def backbone(self) -> nn.Module:
        """The part that looks at maps: the whole, what a forecaster has between embedding and head, or what is under
        a decoder or detector."""
        return getattr(self.model, "backbone", self.model)

    def read(self, file: str | Path) -> Tensor:
        """The map of a file, shape (C, H, W).

        Raises:
            UserError: The file cannot be read.
        """
        if not Path(file).is_file():
            raise UserError(f"{file} is not a file")
        try:
            made = self.inputs.to_map(self.inputs.read(Path(file)))
        except Exception as error:  # decoders raise anything
            raise UserError(f"{file} cannot be read: {error}") from error
        return self.as_seen(made[0] if isinstance(made, tuple) else made)

    def as_seen(self, sample: Tensor) -> Tensor:
        """What the backbone sees of a map (C, H, W): some networks scale maps themselves."""
        return self.model.scaled(sample) if hasattr(self.model, "scaled") else sample  # type: ignore[operator]

    @property
    def embeds(self) -> bool:
        """Whether the network itself makes the maps that the backbone sees."""
        return hasattr(self.model, "to_maps")

    def before_training(self) -> Subject:
        """The network of a run with the weights that its seed gives.

        Raises:
            UserError: It is not of a run.
        """
        if self.run is None:
            raise UserError(f"{self.name} is not a run folder")
        first = self.run.first_model().requires_grad_(False)
        return replace(self, name=f"{self.name}, untrained", model=first, trained=False)


def find_subject(word: str, pretrained: bool = False, kernel: int = 0) -> Subject:
    """A run, or a network that timm knows, which ours are among.

    Args:
        word: A run folder, or a name such as convnext_tiny.
        pretrained: Whether to download the weights of a name; otherwise they are drawn with seed 0.
        kernel: Size K of the large kernels instead of the variant's own, of ours only.

    Raises:
        UserError: There is no such run or network, or it has no large kernels.
    """
    if (Path(word) / "config.yaml").is_file():
        if kernel:
            raise UserError(f"{word} is trained: its kernels have the sizes that they have; name a variant instead")
        run = Run.open(word)
        return Subject(word, run.load_model().requires_grad_(False), run.recipe.input, True, run)
    base = word.partition(".")[0]
    if not timm.is_model(base):
        raise UserError(f"{word} is neither a run folder nor a network of timm{nearest(word, timm.list_models())}")
    kwargs: dict[str, Any] = {}
    if kernel:
        if base not in VARIANTS:
            raise UserError(f"{word} has no kernels whose size could be chosen; the variants of UniRepLKNet have")
        kwargs["kernel_sizes"] = replace(VARIANTS[base], large_kernel=kernel).kwargs()["kernel_sizes"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            model = timm.create_model(word, pretrained, **kwargs).eval()
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(f"{word}: {' '.join(str(error).split())}") from error
    name = f"{word}, K = {kernel}" if kernel else word
    return Subject(name, model.requires_grad_(False), _timm_input(model), pretrained)


def _timm_input(model: nn.Module) -> Any:
    """How timm shows images to a network."""
    config = resolve_model_data_config(model)
    kind: Any = MODALITIES[DEFAULT_MODALITY].input
    ways = {"nearest", "bilinear", "bicubic"} & {config["interpolation"]}
    values = {
        "size": config["input_size"][-1],
        "channels": config["input_size"][0],
        "fit": "squash" if config["crop_mode"] == "squash" else "crop",
        "crop": config["crop_pct"],
        "interpolation": ways.pop() if ways else "bicubic",
        "mean": config["mean"],
        "std": config["std"],
    }
    return kind(**values)


def look_at_fields(
    subjects: Sequence[Subject], folder: Path, images: str = "", count: int = 16, size: int = 512, data: str = ""
) -> list[Field]:
    """Measure effective receptive fields and draw them side by side.

    Untrained networks are measured with their residual branches at full strength.

    Args:
        subjects: The networks.
        folder: Where ``field.png`` and ``field.json`` go.
        images: A folder of files to average over. By default a run is shown the val samples of its data, and the others
            images of random numbers. Of images of several sizes those of the most frequent one are taken.
        count: How many images to average over at most.
        size: Height and width of images, in pixels; a run has its own.
        data: Where the data of runs lie now, if they have moved.
    """
    found = []
    for subject in subjects:
        image, available = _images(subject, images, size, data)
        shown = range(min(count, available))
        model = subject.backbone
        if not subject.trained:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                open_branches(model, torch.stack([image(i) for i in shown[:2]]))
        found.append(receptive_field(subject.name, last_map(model), map(image, shown)))
    folder.mkdir(parents=True, exist_ok=True)
    draw_fields(found, folder / "field.png")
    trained = {subject.name: subject.trained for subject in subjects}
    write_json(folder / "field.json", [{"trained": trained[field.name]} | field.summary() for field in found])
    return found


def _images(subject: Subject, folder: str, size: int, data: str) -> tuple[Callable[[int], Tensor], int]:
    """The images to average a field over, by number, and how many there are."""
    inputs, run = subject.inputs, subject.run
    if subject.embeds or (run is None and not folder):
        shape = inputs.shape if subject.embeds else (inputs.channels, size, size)
        return lambda i: torch.randn(shape, generator=torch.Generator().manual_seed(i)), 10**9
    if folder:
        if run is None:
            inputs = replace(inputs, size=size, fit="squash")
        looking, files = replace(subject, inputs=inputs), find_inputs([folder], inputs.extensions)
        return lambda i: looking.read(files[i]), len(files)
    assert run is not None
    samples = MapDataset(run.load_data(data).splits["val"], inputs.read, inputs.to_map)
    maps = (samples[Draw(0, i)].map for i in range(len(samples)))
    shapes = {i: subject.as_seen(map).shape for i, map in enumerate(maps) if map is not None}
    most = statistics.mode(shapes.values()) if shapes else None
    alike = [i for i, shape in shapes.items() if shape == most]

    def sample(number: int) -> Tensor:
        found = samples[Draw(0, alike[number])].map
        assert found is not None
        return subject.as_seen(found)

    return sample, len(alike)


def look_at_kernels(subject: Subject, folder: Path, everything: bool = False) -> list[dict[str, Any]]:
    """Draw the branches of Dilated Reparam Blocks and their sum; of a run before and after training.

    Args:
        subject: The network.
        folder: Where ``kernels.png`` and ``kernels.json`` go.
        everything: Whether to draw every block instead of the first one of each stage.

    Returns:
        For each block its name, whether it is trained, and its branches in numbers.
    """
    states = {"trained": subject.model} if subject.trained else {"untrained": subject.model}
    if subject.run is not None:
        states = {"untrained": subject.run.first_model()} | states
    blocks = {state: reparam_blocks(model) for state, model in states.items()}
    first = next(iter(blocks.values()))
    names = list(first if everything else first_of_each_stage(first))
    folder.mkdir(parents=True, exist_ok=True)
    # Long titles leave no room for the pictures: the backbone of a detector lies deep in other modules.
    titles = {name: name[max(0, name.rfind("stages")) :].removesuffix(".dwconv") for name in names}
    rows = [(f"{titles[name]}\n{state}", blocks[state][name]) for name in names for state in states]
    draw_kernels(rows, folder / "kernels.png")
    table = [
        {"block": name, "trained": state == "trained", "branches": summarise(blocks[state][name])}
        for name in first
        for state in states
    ]
    write_json(folder / "kernels.json", table)
    return table


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and programs."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
