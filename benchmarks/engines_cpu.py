"""Four engines on the CPU: UniRepLKNet A and F beside ConvNeXt V2 Atto and Femto, T beside ConvNeXt-Tiny.

    OMP_NUM_THREADS=2 python benchmarks/engines_cpu.py
    python benchmarks/engines_cpu.py --models unireplknet_a --size 64 --rounds 1 --out look.json  # does it work?

fp32, batch 8, two threads, 224 px: `unireplknet bench` with these settings, into benchmarks/results/engines_cpu.json.
"""

import argparse
import json
import logging
from pathlib import Path

from _common import RESULTS, settle_allocator

from unireplknet.deploy.contest import Settings, run_contest, table
from unireplknet.deploy.entrants import Manner
from unireplknet.files import write_text
from unireplknet.insight.tradeoff import draw_tradeoff

MODELS = ("unireplknet_a", "convnextv2_atto", "unireplknet_f", "convnextv2_femto", "unireplknet_t", "convnext_tiny")
ENGINES = ("eager", "compiled", "onnxruntime", "openvino")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=RESULTS / "engines_cpu.json")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    settle_allocator()
    manner = Manner(size=options.size, threads=2)
    result = run_contest(options.models, Settings(ENGINES, (8,), manner, options.rounds))
    print("\n".join(table(result)))
    write_text(options.out, json.dumps(result, indent=1) + "\n")
    draw_tradeoff(result, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
