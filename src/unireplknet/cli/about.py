"""``demo``, ``info`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path

from unireplknet.cli.console import Parser, first_line, say
from unireplknet.errors import UserError


def demo(words: list[str]) -> None:
    """Train on the digits, evaluate, merge, verify, time, predict: all of it in three minutes."""
    parser = Parser("demo", first_line(demo))
    parser.add_argument("--out", metavar="DIR", type=Path, help="the run folder, which must be new or empty")
    parser.add_argument("--epochs", type=int, help="fewer for a quick look")
    options = parser.parse_args(words)

    from unireplknet.demo import run_demo

    run_demo(say, options.out, options.epochs)


def info(words: list[str]) -> None:
    """Show the variants' parameters and cost, computed and as the paper prints them."""
    parser = Parser("info", first_line(info))
    parser.add_argument("variant", metavar="VARIANT", nargs="?", help="one variant; default: all")
    parser.add_argument("--ablations", action="store_true", help="the rows of the paper's tables 3a to 3d instead")
    options = parser.parse_args(words)

    from unireplknet.errors import nearest
    from unireplknet.models.complexity import complexity
    from unireplknet.models.published import ABLATION_ROWS, VARIANT_ROWS

    wanted = options.variant
    rows = [
        row
        for row in (ABLATION_ROWS if options.ablations else VARIANT_ROWS)
        if not wanted or wanted in (row.label, row.label.removeprefix("unireplknet_"))
    ]
    if not rows:
        raise UserError(f"no variant {wanted!r}{nearest(wanted, {row.label for row in VARIANT_ROWS})}")
    width = max(len(row.label) for row in rows)
    columns = ("training, M", "merged, M", "paper's rule, M", "printed, M", "GMACs", "printed")
    say(f"{'':{width}}  pixels  " + "  ".join(f"{c:>{len(c)}}" for c in columns))
    for row in rows:
        cost = complexity(row)
        millions = [f"{n / 1e6:.2f}" for n in (cost.training_params, cost.params, cost.published_params)]
        cells = (*millions, row.params or "-", f"{cost.macs / 1e9:.2f}", row.macs or "-")
        line = "  ".join(f"{cell:>{len(c)}}" for cell, c in zip(cells, columns, strict=True))
        say(f"{row.label:{width}}  {row.size:6}  {line}")
    say("The paper counts the merged network, without GRN's gamma and the norms of stem and downsampling.")


def doctor(words: list[str]) -> None:
    """Say which versions, devices, backends and compilers are there, and which are not and why."""
    Parser("doctor", first_line(doctor)).parse_args(words)

    from unireplknet.doctor import examine

    for title, lines in examine().items():
        say(title)
        for line in lines:
            say(f"  {line}")
