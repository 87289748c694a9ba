"""The demonstration: from nothing to a trained, merged, verified network, on a laptop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from unireplknet.data.split import Split
from unireplknet.deploy.benchmark import take_turns
from unireplknet.deploy.merge import merged_copy, relative_error
from unireplknet.recipes.image import digits
from unireplknet.tasks.classify.score import evaluate, nearest_neighbour, predict
from unireplknet.training.loader import build_loader
from unireplknet.training.run import Run, fit


def run_demo(say: Callable[[str], None], out: Path | None = None, epochs: int | None = None) -> Run:
    """Train on the digits, evaluate, merge, verify, time, predict.

    Args:
        say: Receives each line of the report.
        out: The run folder; by default the next free number under ``runs``.
        epochs: Fewer epochs than the recipe's.

    Returns:
        The run. Beside what training and evaluating leave, its folder holds some digits as files.
    """
    recipe = digits()
    recipe.name = "demo"
    recipe.optim.epochs = epochs or recipe.optim.epochs
    say(f"1. train on scikit-learn's digits, {recipe.optim.epochs} epochs")
    run = fit(recipe, out)

    say("2. evaluate on the 25% of the samples that training and the choice of the epoch never saw")
    data = run.load_data()
    name, scores = evaluate(run)
    top1 = scores.summary(run.classes)["top1"]
    say(f"   UniRepLKNet: {top1:.2%} of {len(scores.labels)} right (epoch {run.results['best_epoch']})")
    say(f"   1-nearest-neighbour on the same split: {nearest_neighbour(run, data):.2%}")

    say("3. merge the parallel branches and norms into one convolution a block, and compare")
    maps = torch.cat([batch.maps for batch in build_loader(recipe, data.splits[name])])
    _compare(say, run, maps)

    say("4. predict some digits from files")
    for p in predict(run, _write_samples(run, data.splits[name], 5), top=1):
        say(f"   {p.file}: {p.classes[0]} ({p.probabilities[0]:.1%})")

    say("5. look at")
    for file in ("curves.png", f"confusion-{name}.png", f"predictions-{name}.png", "README.md"):
        say(f"   {run.path / file}")
    return run


def _compare(say: Callable[[str], None], run: Run, maps: Tensor) -> None:
    model = run.load_model()
    merged = merged_copy(model)
    say(f"   largest relative difference of the outputs: {relative_error(merged, model, maps):.1e}")
    batch = maps[:64]
    with torch.inference_mode():
        seconds = take_turns({"unmerged": lambda: model(batch), "merged": lambda: merged(batch)}).best()
    for name, network in (("unmerged", model), ("merged", merged)):
        count = sum(p.numel() for p in network.parameters())
        say(f"   {name:8}  {seconds[name] * 1e3:6.1f} ms for {len(batch)} digits, {count:,} parameters")
    say(f"   {torch.get_num_threads()} threads; the best of 20 turns each")


def _write_samples(run: Run, split: Split, count: int) -> list[Path]:
    """Digits as image files; the name ends in the truth."""
    folder = run.path / "samples"
    folder.mkdir()
    files = []
    for i in range(count):
        file = folder / f"{i}-is-a-{run.classes[split.labels[i]]}.png"
        Image.fromarray(split.items[i]).save(file)
        files.append(file)
    return files
