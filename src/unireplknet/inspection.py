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
from unireplknet.modalities import MODALITIES
from unireplknet.modalities.panels import heat, panels
from unireplknet.models.variants import VARIANTS
from unireplknet.tasks.classify.gallery import Shown
from unireplknet.tasks.classify.labels import class_probabilities
from unireplknet.tasks.classify.score import Scores, choose_split, score_split, show_mistakes
from unireplknet.tasks.detect.data import Objects
from unireplknet.tasks.detect.network import Detector
from unireplknet.tasks.segment.data import Pair
from unireplknet.training.run import Run

UNMARKED: dict[str, Callable[[Path], Any]] = {"segmentation": Pair, "detection": Objects}
"""How a file becomes an item of which nothing more is known, by task; elsewhere it is one."""


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
            item = UNMARKED.get(getattr(self.inputs, "task", ""), Path)(Path(file))
            made = self.inputs.to_map(self.inputs.read(item))
        except Exception as error:  # decoders raise anything
            raise UserError(f"{file} cannot be read: {error}") from error
        return self.as_seen(made[0] if isinstance(made, tuple) else made)

    def as_seen(self, sample: Tensor) -> Tensor:
        """What the backbone sees of a map (C, H, W): detectors scale maps themselves."""
        return self.model.scaled(sample) if isinstance(self.model, Detector) else sample

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
    kind = MODALITIES["image"][0]
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
    _write_json(folder / "field.json", [{"trained": trained[field.name]} | field.summary() for field in found])
    return found


def _images(subject: Subject, folder: str, size: int, data: str) -> tuple[Callable[[int], Tensor], int]:
    """The images to average a field over, by number, and how many there are."""
    inputs, run = subject.inputs, subject.run
    forecasts = run is not None and run.recipe.task == "forecasting"
    if forecasts or (run is None and not folder):
        shape = inputs.shape if forecasts else (inputs.channels, size, size)
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
    _write_json(folder / "kernels.json", table)
    return table


def look_at_stages(subject: Subject, file: str | Path, folder: Path) -> Path:
    """Draw what each stage makes of a file; returns the picture."""
    from unireplknet.insight.activations import draw_stages, stage_maps

    _classifies(subject)
    sample = subject.read(file)
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"{Path(file).stem}-stages.png"
    draw_stages(panels(subject.inputs, sample), stage_maps(subject.model, sample), Path(file).name, picture)
    return picture


@dataclass(frozen=True)
class Explained:
    """What is said of one file, and how far that is explained.

    Attributes:
        file: The file.
        label: The class that the picture speaks of.
        probability: Its probability.
        gap: Part of the logit that the attributions do not add up to.
        picture: The picture.
    """

    file: str
    label: str
    probability: float
    gap: float
    picture: str


def look_at_attribution(subject: Subject, files: Sequence[str], folder: Path, label: str = "") -> list[Explained]:
    """Draw which parts of samples speak for a class and which against it.

    Where samples are looked at from several sides, it is the one view that training validates by.

    Args:
        subject: A run that classifies.
        files: Files, or folders of files.
        folder: Where ``NAME-attribution.png`` goes.
        label: The class; by default the one that the network takes each file for.

    Raises:
        UserError: The run does not classify, or has no such class.
    """
    from unireplknet.insight.attribution import attribute
    from unireplknet.tasks.classify.seen import draw_seen

    run = _classifies(subject).run
    if run is None:
        raise UserError(f"{subject.name} has no names for its classes; attribution needs a run folder")
    if label and label not in run.classes:
        raise UserError(f"{run.path} has no class {label!r}{nearest(label, run.classes)}")
    folder.mkdir(parents=True, exist_ok=True)
    explained = []
    for number, file in enumerate(find_inputs(files, subject.inputs.extensions)):
        sample = subject.read(file)
        with torch.no_grad():
            probabilities = class_probabilities(subject.model(sample[None]).float(), run.recipe.optim.loss)[0]
        target = run.classes.index(label) if label else int(probabilities.argmax())
        found = attribute(subject.model, sample, target, getattr(subject.inputs, "blank", 0.0))
        values, order = (part.tolist() for part in probabilities.topk(min(5, len(run.classes))))
        picture = folder / f"{number:03}-{file.stem}-attribution.png"
        draw_seen(
            panels(subject.inputs, sample),
            f"{file.name}: what speaks for {run.classes[target]} (red) and against it (blue)",
            [run.classes[c] for c in order],
            values,
            picture,
            heat(subject.inputs, found.weights),
        )
        said = float(probabilities[target])
        explained.append(Explained(str(file), run.classes[target], said, found.gap, str(picture)))
    return explained


def look_at_confusion(subject: Subject, folder: Path, split: str = "", data: str = "") -> dict[str, Any]:
    """Draw which classes a run takes for which.

    Args:
        subject: A run that classifies.
        folder: Where ``confusion.png`` and ``confusion.json`` go.
        split: "train", "val" or "test"; by default test, or val where the data have no test split.
        data: Where the data lie now, if they have moved.

    Returns:
        The split, the matrix (rows are true classes, columns predicted ones) and the confusions, most frequent first.

    Raises:
        UserError: The run does not classify, or its samples have several classes each.
    """
    from unireplknet.tasks.classify.confusion import confusions, draw_confusion

    run, name, _, scores = _scored(subject, split, data)
    matrix = scores.confusion(len(run.classes))
    folder.mkdir(parents=True, exist_ok=True)
    draw_confusion(matrix, run.classes, folder / "confusion.png")
    pairs = [{"true": true, "said": said, "samples": n} for true, said, n in confusions(matrix, run.classes)]
    found = {"split": name, "classes": list(run.classes), "matrix": matrix.tolist(), "confusions": pairs}
    _write_json(folder / "confusion.json", found)
    return found


def look_at_mistakes(
    subject: Subject, folder: Path, split: str = "", data: str = "", count: int = 24
) -> tuple[str, list[Shown]]:
    """Draw the samples that a run takes for another class, those first of which it is surest.

    Args:
        subject: A run that classifies.
        folder: Where ``mistakes.png`` and ``mistakes.json`` go.
        split: "train", "val" or "test"; by default test, or val where the data have no test split.
        data: Where the data lie now, if they have moved.
        count: How many at most.

    Returns:
        The name of the split and the mistakes.

    Raises:
        UserError: The run does not classify, or its samples have several classes each.
    """
    from unireplknet.tasks.classify.gallery import draw_gallery

    run, name, samples, scores = _scored(subject, split, data)
    shown = show_mistakes(run, samples, scores, count)
    folder.mkdir(parents=True, exist_ok=True)
    draw_gallery(shown, f"{name}: the surest mistakes, with what was said and its probability", folder / "mistakes.png")
    rows = [{"sample": s.name, "true": s.truth, "said": s.said, "probability": s.probability} for s in shown]
    _write_json(folder / "mistakes.json", {"split": name, "mistakes": rows})
    return name, shown


def _scored(subject: Subject, split: str, data: str) -> tuple[Run, str, Any, Scores]:
    """A run that says one class of each sample, the name of a split, its samples, and what the run says of them."""
    run = _classifies(subject).run
    if run is None:
        raise UserError(f"{subject.name} has not learnt the classes of any data; name a run folder")
    found = run.load_data(data)
    if found.multilabel:
        raise UserError(f"{run.path}: samples have several classes each, so that none is taken for another")
    name = choose_split(run, found, split)
    return run, name, found.splits[name], score_split(run, found.splits[name])


def _classifies(subject: Subject) -> Subject:
    if subject.run is not None and subject.run.recipe.task != "classification":
        task = subject.run.recipe.task
        raise UserError(f"{subject.name} is for {task}; only networks that classify can be looked into in this way")
    return subject


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
