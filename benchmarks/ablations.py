"""Run the paper's design tables 3a, 3b and 3d scaled down, on emoji: mean and spread of the held-out accuracy.

    npm pack emoji-datasource-google && tar xf emoji-datasource-google-*.tgz
    python benchmarks/ablations.py                                  # count parameters and MACs of all rows, no training
    python benchmarks/ablations.py --data package                   # and train every row with three seeds
    python benchmarks/ablations.py --data package --tables T3b --seeds 0

Each (row, seed) is a run of its own under --out. Interrupted, the same command goes on where it was: with the state of
the run it was in, and without those it had finished. The tables and the picture hold whatever is finished.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import RESULTS, versions, write_result
from tqdm import tqdm

from unireplknet.errors import UserError
from unireplknet.insight.figure import new_figure
from unireplknet.models.complexity import complexity
from unireplknet.models.published import ABLATION_ROWS, Row
from unireplknet.recipes import find_recipe
from unireplknet.tasks.classify.score import score
from unireplknet.training.checkpoint import differences
from unireplknet.training.loader import build_loader
from unireplknet.training.recipe import Model, Recipe
from unireplknet.training.run import Run, fit

TABLES = {
    "T3a": "extra structure of the block",
    "T3b": "re-parameterization of the 13x13 layers",
    "T3d": "depth by LarK or SmaK blocks",
}
ROWS = tuple(row for row in ABLATION_ROWS if row.label[:3] in TABLES)
SEEDS = (0, 1, 2)

RULE = (
    "a third of the blocks (the first of each stage's list), a sixth of the channels, and maps of half the side:"
    " 56 pixels and a stem of stride 2 give 28-14-7-4 instead of 56-28-14-7; kernels as published"
)
BLOCKS, CHANNELS, PIXELS, STEM = 3, 6, 56, 2
EPOCHS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an unpacked emoji-datasource-VENDOR; without it nothing is trained")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="default: all")
    parser.add_argument("--rows", nargs="+", choices=[row.label for row in ROWS], help="default: all of the tables")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="default: 0 1 2")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"default: {EPOCHS}")
    parser.add_argument("--out", type=Path, default=Path("runs") / "ablations", help="default: runs/ablations")
    options = parser.parse_args()
    if not options.data:
        print(count_table(count()))
        return
    chosen = [row for row in ROWS if (row.label in options.rows if options.rows else row.label[:3] in options.tables)]
    data = str(Path(options.data).resolve())
    recipes = [recipe_of(row, seed, data, options.epochs) for seed in options.seeds for row in distinct(chosen)]
    try:
        for recipe in (bar := tqdm(recipes)):
            bar.set_description(recipe.name)
            run_cell(recipe, options.out)
        entries = collect(options.out, data, options.epochs, sorted({*SEEDS, *options.seeds}))
    except UserError as error:
        parser.exit(2, f"{error}\n")
    report(entries, data, options.epochs)


def distinct(rows: Sequence[Row]) -> list[Row]:
    """The rows without those whose network an earlier row of the tables has: they are trained once."""
    return list({same.label: same for row in rows if (same := first_alike(row))}.values())


def first_alike(row: Row) -> Row:
    """The first row of the tables with the network of ``row``."""
    return next(other for other in ROWS if other.kwargs == row.kwargs)


def reduced(row: Row) -> Model:
    """A row scaled down by the rule."""
    sizes = tuple(stage[: len(stage) // BLOCKS] for stage in row.kwargs["kernel_sizes"])
    return Model(
        row=row.label,
        depths=tuple(map(len, sizes)),
        dims=tuple(dim // CHANNELS for dim in row.kwargs["dims"]),
        kernel_sizes=sizes,
        stem_stride=STEM,
        drop_path=0.1,
    )


def recipe_of(row: Row, seed: int, data: str, epochs: int) -> Recipe:
    """The emoji recipe, shorter, with the network of a row."""
    recipe = find_recipe("emoji")
    words = "".join(c if c.isalnum() else " " for c in row.label).split()
    recipe.name = "-".join([*words, f"seed{seed}"])
    recipe.model = reduced(row)
    recipe.data.path = data
    recipe.input.size = PIXELS
    recipe.optim.epochs, recipe.optim.warmup_epochs = epochs, min(1, epochs / 2)
    recipe.trainer.seed, recipe.trainer.progress = seed, False
    return recipe


def run_cell(recipe: Recipe, out: Path) -> None:
    """Train and score once, or what is left of it.

    Raises:
        UserError: The folder has a run with other settings.
    """
    run = finished(recipe, out) or fit(recipe, out / recipe.name)
    if "test" not in run.results:
        test = run.load_data().splits["test"]
        summary = score(run.load_model(), build_loader(recipe, test)).summary(run.classes)
        run.note(test={"top1": summary["top1"], "class_mean": summary["mean_class_accuracy"]})


def finished(recipe: Recipe, out: Path) -> Run | None:
    """The run of a recipe, if it has reached its end."""
    folder = out / recipe.name
    if not (folder / "config.yaml").exists() or not Run.open(folder).finished:
        return None
    run = Run.open(folder)
    if other := differences(run.recipe.settings(), recipe.settings()):
        raise UserError(f"{folder} is a finished run with other settings: {other}; choose another --out")
    return run


def collect(out: Path, data: str, epochs: int, seeds: Sequence[int] = SEEDS) -> list[dict[str, Any]]:
    """One entry a row of the tables, with what its finished runs have scored."""
    entries = []
    for row in ROWS:
        recipes = [recipe_of(first_alike(row), seed, data, epochs) for seed in seeds]
        runs = [run for recipe in recipes if (run := finished(recipe, out)) and "test" in run.results]
        entries.append(
            {
                "row": row.label,
                "trained_as": first_alike(row).label,
                "paper_top1": row.top1,
                "small_params": runs[0].results["parameters"] if runs else None,
                "top1": [run.results["test"]["top1"] for run in runs],
                "class_mean": [run.results["test"]["class_mean"] for run in runs],
                "seconds": [run.results["seconds"] for run in runs],
            }
        )
    return entries


def report(entries: list[dict[str, Any]], data: str, epochs: int) -> None:
    """Print the tables, draw them, and write the numbers down."""
    counts = count()
    print(f"{count_table(counts)}\n\nScaled down: {RULE}; {epochs} epoch(s).\n\n{accuracy_table(entries)}\n")
    draw(entries, RESULTS / "ablations.png")
    package = json.loads((Path(data) / "package.json").read_text(encoding="utf-8"))
    result = write_result(
        "ablations",
        {
            "versions": versions(),
            "command": "python benchmarks/ablations.py --data PATH",
            "data": {key: package[key] for key in ("name", "version")},
            "rule": RULE,
            "epochs": epochs,
            "rows": entries,
            "counts": counts,
        },
    )
    print(f"written: {result}, {RESULTS / 'ablations.png'}")


def count() -> list[dict[str, Any]]:
    """Parameters and MACs of the published rows of tables 3a to 3d, as printed and as computed."""
    return [
        {
            "row": row.label,
            "printed": {"params": row.params, "macs": row.macs},
            "computed": {"params": cost.published_params, "macs": cost.macs},
        }
        for row in ABLATION_ROWS
        for cost in [complexity(row)]
    ]


def count_table(counts: list[dict[str, Any]]) -> str:
    """Printed against computed parameters and MACs, as Markdown."""
    lines = ["| row | params, M: printed | computed | GMACs: printed | computed |", "|---|---|---|---|---|"]
    for entry in counts:
        printed, computed = entry["printed"], entry["computed"]
        params = f"{printed['params'] or '-'} | {computed['params'] / 1e6:.2f}"
        lines.append(f"| {entry['row']} | {params} | {printed['macs'] or '-'} | {computed['macs'] / 1e9:.3f} |")
    return "\n".join(lines)


def accuracy_table(entries: list[dict[str, Any]]) -> str:
    """Held-out accuracy of the small networks beside the paper's ImageNet accuracy of the large ones, as Markdown."""
    lines = [
        "| row | params, k | emoji top-1, % | mean over classes, % | seeds | ImageNet top-1, %, paper |",
        "|---|---|---|---|---|---|",
    ]
    for entry in entries:
        small = f"{entry['small_params'] / 1e3:.0f}" if entry["small_params"] else "-"
        cells = (small, spread(entry["top1"]), spread(entry["class_mean"]), len(entry["top1"]), entry["paper_top1"])
        lines.append(f"| {entry['row']} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def spread(parts: Sequence[float]) -> str:
    """Mean and standard deviation of parts of 1, in percent."""
    if not parts:
        return "not run"
    deviation = f" ± {100 * statistics.stdev(parts):.2f}" if len(parts) > 1 else ""
    return f"{100 * statistics.mean(parts):.2f}{deviation}"


def draw(entries: list[dict[str, Any]], picture: Path) -> None:
    """Draw each table as a pair of panels: measured here on the left, the paper's figures on the right."""
    tables = {table: [e for e in entries if e["row"].startswith(table)] for table in TABLES}
    figure = new_figure(10, 1.2 + 0.42 * len(entries))
    grid = figure.subplots(len(tables), 2, sharex="col", height_ratios=[len(rows) for rows in tables.values()])
    for (table, rows), (here, paper) in zip(tables.items(), grid, strict=True):
        names = [entry["row"].removeprefix(f"{table} ") for entry in rows]
        for place, entry in enumerate(rows):
            percent = [100 * part for part in entry["top1"]]
            here.plot(percent, [place] * len(percent), ".", color="tab:gray", markersize=4)
            if percent:
                deviation = statistics.stdev(percent) if len(percent) > 1 else 0
                here.errorbar(statistics.mean(percent), place, xerr=deviation, fmt="o", color="tab:blue", capsize=3)
        paper.plot([entry["paper_top1"] for entry in rows], range(len(rows)), "s", color="tab:orange")
        here.set_yticks(range(len(rows)), names)
        paper.set_yticks(range(len(rows)), [])
        for axes in (here, paper):
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.grid(alpha=0.3)
        here.set_title(f"{table}: {TABLES[table]}", loc="left", fontsize="medium")
    grid[-1][0].set_xlabel("here: emoji top-1, %; mean ± deviation of the seeds (dots)")
    grid[-1][1].set_xlabel("the paper: ImageNet-1K top-1, %")
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main()
