"""Measure how fast samples come from a folder and from shards, and how long training waits for them.

    python benchmarks/data_pipeline.py

JPEGs of 300 to 500 pixels are made (seeded noise of several scales, so that they are as large as photographs), packed,
and put through the augmentation of the ImageNet recipes. "cold" drops the files from the system's page cache first,
where the system has posix_fadvise; the disk may have a cache of its own. Passes alternate between folder and shards;
warm figures are the best of several. Written to results/data_pipeline.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _common import settle_allocator, versions, write_result
from PIL import Image

from unireplknet.data.shards.packing import pack
from unireplknet.data.shards.reading import CACHE
from unireplknet.data.shards.samples import ShardSample
from unireplknet.data.split import Split
from unireplknet.modalities import SOURCES
from unireplknet.recipes import find_recipe
from unireplknet.training.loader import build_loader
from unireplknet.training.optim import build_optimizer
from unireplknet.training.recipe import Recipe

WORKERS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="how many JPEGs to make")
    parser.add_argument("--samples", type=int, default=256, help="how many of them a pass reads")
    parser.add_argument("--passes", type=int, default=2, help="warm passes, of which the best counts")
    parser.add_argument("--steps", type=int, default=10, help="training steps to time, after one to warm up")
    parser.add_argument("--dry", action="store_true", help="print only; leave the result file alone")
    options = parser.parse_args()
    settle_allocator()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ[CACHE] = f"{temporary}/cache"
        result = measure(Path(temporary), options.images, options.samples, options.passes, options.steps)
    print(json.dumps(result, indent=1))
    if not options.dry:
        print(f"written: {write_result('data_pipeline', result)}")


def measure(root: Path, images: int, samples: int, passes: int, steps: int) -> dict[str, Any]:
    places = {"folder": write_tree(root / "folder", images), "shards": root / "shards"}
    start = time.perf_counter()
    manifest = pack(places["folder"], places["shards"], (".jpg",), shard_size=32 << 20)
    seconds = time.perf_counter() - start
    chosen = np.random.default_rng(0).permutation(images)[:samples]
    splits = {source: load(source, place).take(chosen) for source, place in places.items()}
    return {
        "images": images,
        "mean_kilobytes": round(sum(p.stat().st_size for p in places["folder"].rglob("*.jpg")) / images / 1e3, 1),
        "shards": len(manifest.shards),
        "pack_images_per_second": round(images / seconds),
        "samples_a_pass": samples,
        "read_only_samples_per_second": {
            source: {state: round(reading(split, state == "cold")) for state in ("cold", "warm")}
            for source, split in splits.items()
        },
        "decode_and_augment_samples_per_second": {
            f"{workers} workers": throughput(splits, workers, passes) for workers in WORKERS
        },
        "training_unireplknet_a_224_batch_8": {
            f"{workers} workers": {source: waiting(split, workers, steps) for source, split in splits.items()}
            for workers in WORKERS
        },
        "steps": steps,
        "versions": versions(),
    }


def write_tree(root: Path, images: int) -> Path:
    generator = np.random.default_rng(0)
    for i in range(images):
        size = tuple(int(n) for n in generator.integers(300, 501, 2))
        picture = np.zeros((size[1], size[0], 3))
        for cells, strength in ((4, 60), (16, 30), (64, 20), (256, 12)):
            noise = generator.normal(0, 1, (cells, cells, 3)).clip(-2, 2)
            small = Image.fromarray(((noise + 2) * 63).astype(np.uint8))
            picture += (np.asarray(small.resize(size, Image.Resampling.BICUBIC)) / 63 - 2) * strength
        folder = root / f"class{i % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((picture + 128).clip(0, 255).astype(np.uint8)).save(folder / f"{i:05}.jpg", quality=90)
    return root


def load(source: str, place: Path) -> Split:
    """The samples, in the order of their names, so that both sources give the same ones."""
    split = SOURCES[source](place, find_recipe("in1k_a").input).splits["all"]
    names = [item.name if isinstance(item, ShardSample) else f"{item.parent.name}/{item.name}" for item in split.items]
    return split.take(np.argsort(names))


def settings(batch_size: int, workers: int) -> Recipe:
    recipe = find_recipe("in1k_a")
    recipe.data.workers = workers
    recipe.optim.batch_size, recipe.optim.accumulate = batch_size, 1
    return recipe


def forget(split: Split) -> None:
    """Drop the files of a split from the page cache."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in {item.shard if isinstance(item, ShardSample) else item for item in split.items}:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reading(split: Split, cold: bool) -> float:
    """Samples a second without decoding."""
    if cold:
        forget(split)
    start = time.perf_counter()
    for item in split.items:
        item.open().read() if isinstance(item, ShardSample) else item.read_bytes()
    return len(split) / (time.perf_counter() - start)


def throughput(splits: dict[str, Split], workers: int, passes: int) -> dict[str, dict[str, float]]:
    """Samples a second, decoded and augmented."""
    recipe = settings(min(32, len(splits["folder"])), workers)
    loaders = {source: build_loader(recipe, split, augment=True) for source, split in splits.items()}

    def once(source: str) -> float:
        start = time.perf_counter()
        count = sum(len(batch.labels) for batch in loaders[source])
        return count / (time.perf_counter() - start)

    rates: dict[str, dict[str, float]] = {}
    for source, split in splits.items():
        forget(split)
        rates[source] = {"cold": round(once(source), 1)}
    warm = [{source: once(source) for source in splits} for _ in range(passes)]
    for source in splits:
        rates[source]["warm"] = round(max(rate[source] for rate in warm), 1)
    return rates


def waiting(split: Split, workers: int, steps: int) -> dict[str, float]:
    """Seconds a training step takes, and the part of them that goes by until its samples are there."""
    torch.manual_seed(0)
    recipe = settings(8, workers)
    model = recipe.model.build(recipe.input.channels, [str(i) for i in range(10)])
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(model, recipe.optim)
    batches = itertools.islice(build_loader(recipe, split, augment=True), steps + 1)
    times = []
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        there = time.perf_counter()
        maps = batch.maps.contiguous(memory_format=torch.channels_last)
        F.cross_entropy(model(maps), batch.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append((there - start, time.perf_counter() - start))
    waited, took = np.array(times[1:]).sum(0)
    return {"seconds_a_step": round(took / (len(times) - 1), 3), "share_of_waiting": round(waited / took, 4)}


if __name__ == "__main__":
    main()
