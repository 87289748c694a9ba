"""``bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unireplknet.cli.console import Parser, first_line, say
from unireplknet.errors import UserError


def bench(words: list[str]) -> None:
    """Time networks, engines and exported files against each other, and say whether the machine was quiet."""
    parser = Parser("bench", first_line(bench))
    parser.add_argument("models", metavar="MODEL", nargs="+", help="networks that timm knows, or exported files")
    engines = "eager, compiled, onnxruntime, openvino, aoti"
    parser.add_argument("--engine", metavar="E", nargs="+", default=["eager"], help=engines)
    parser.add_argument("--batch", metavar="N", type=int, nargs="+", help="samples of a call (default: 8)")
    parser.add_argument("--size", type=int, help="pixels of a side (default: as listed for each network)")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="default: fp32")
    parser.add_argument("--mode", choices=("forward", "train"), help="train: forward, loss, backward; default: forward")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu", help="default: cpu")
    parser.add_argument("--threads", metavar="N", type=int, help="of the CPU (default: PyTorch's)")
    parser.add_argument(
        "--layout", choices=("auto", "channels_last", "contiguous"), default="auto", help="default: the faster one"
    )
    parser.add_argument("--protocol", choices=("paper",), help="paper: batch 128, listed size, fp32, forward")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each (default: 10)")
    parser.add_argument("--seconds", type=float, default=0.1, help="about how long a turn lasts (default: 0.1)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="a new .json; a picture .png goes beside it")
    options = parser.parse_args(words)
    fixed = {name: getattr(options, name) for name in ("batch", "size", "dtype", "mode")}
    given = [f"--{name}" for name, value in fixed.items() if value is not None]
    if options.protocol and given:
        parser.error(f"--protocol {options.protocol} sets {', '.join(given)}")
    if options.out:
        _check_target(options.out)

    import torch

    from unireplknet.deploy.contest import Settings, paper_protocol, run_contest, table
    from unireplknet.deploy.entrants import Manner

    manner = Manner(
        dtype=options.dtype or "fp32",
        mode=options.mode or "forward",
        device=options.device,
        layout=options.layout,
        size=options.size or 0,
        threads=torch.get_num_threads() if options.threads is None else options.threads,
    )
    batches = tuple(options.batch or (8,))
    settings = Settings(tuple(options.engine), batches, manner, options.rounds, options.seconds)
    result = run_contest(options.models, paper_protocol(settings) if options.protocol else settings)
    for line in table(result):
        say(line)
    if options.out:
        _write(result | {"protocol": options.protocol}, options.out)
    if all(row["failure"] for row in result["contenders"]):
        raise UserError("nothing could be timed; the table says why")


def _check_target(out: Path) -> None:
    if out.suffix != ".json":
        raise UserError(f"--out is {out}; expected a name that ends in .json")
    if not out.parent.is_dir():
        raise UserError(f"{out} cannot be written: there is no folder {out.parent}")
    for file in (out, out.with_suffix(".png")):
        if file.exists():
            raise UserError(f"{file} exists already; choose another name")


def _write(result: dict[str, Any], out: Path) -> None:
    from unireplknet.files import write_text
    from unireplknet.insight.tradeoff import draw_tradeoff

    write_text(out, json.dumps(result, indent=1) + "\n")
    say(f"written: {out}")
    picture = out.with_suffix(".png")
    try:
        drawn = draw_tradeoff(result, picture)
    except UserError as problem:  # the figures are safe; only matplotlib is missing
        say(f"no picture: {problem}")
        return
    say(f"written: {picture}" if drawn else "no picture: none of the networks that ran has a published accuracy")
