"""What there is to look into in a network that classifies: its stages, what a decision rests on, its mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unireplknet.data.files import find_inputs
from unireplknet.errors import UserError, nearest
from unireplknet.inspection import Subject, write_json
from unireplknet.modalities.panels import heat, panels
from unireplknet.tasks.classify.gallery import Shown
from unireplknet.tasks.classify.labels import class_probabilities
from unireplknet.tasks.classify.score import Scores, score_split, show_mistakes
from unireplknet.tasks.classify.task import Classification
from unireplknet.tasks.scoring import choose_split
from unireplknet.training.run import Run


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
    from unireplknet.insight.seen import draw_seen

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
    write_json(folder / "confusion.json", found)
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
    write_json(folder / "mistakes.json", {"split": name, "mistakes": rows})
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
    if subject.run is not None and not isinstance(subject.run.recipe.task, Classification):
        task = subject.run.recipe.task.name
        raise UserError(f"{subject.name} is for {task}; only networks that classify can be looked into in this way")
    return subject
