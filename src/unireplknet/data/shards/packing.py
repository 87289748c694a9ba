"""From a class-per-folder tree to WebDataset shards, which fewer and larger reads can read."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from unireplknet.data.shards.manifest import MANIFEST, Entry, Manifest
from unireplknet.data.sources.folder import load_folder
from unireplknet.data.split import Split
from unireplknet.errors import UserError
from unireplknet.files import UNFINISHED, replacing, write_text


def pack(
    folder: str | Path, out: str | Path, extensions: Sequence[str], shard_size: int = 1 << 28, samples: int = 0
) -> Manifest:
    """Pack a tree into shards, with a manifest. The files are copied as they are; the same tree gives the same bytes.

    The samples of a split are mixed, in an order that follows from their names, so that a reader that goes through the
    shards one by one meets all classes all the time.

    Args:
        folder: ``folder/CLASS/FILE`` or ``folder/{train,val,test}/CLASS/FILE``.
        out: The folder to make. It appears when it is complete.
        extensions: File name endings of the modality, lower case, with the dot.
        shard_size: Largest size of a shard in bytes, unless a single sample is larger.
        samples: Largest number of samples in a shard; 0 for no limit.

    Returns:
        The manifest.

    Raises:
        UserError: The tree is not one, ``out`` exists, or a file cannot be read or written.
    """
    folder, out = Path(folder), Path(out)
    if shard_size < 1 or samples < 0:
        raise UserError(f"shards of {shard_size} bytes and {samples} samples cannot be made")
    if out.exists():
        raise UserError(f"{out} exists; packing never overwrites, choose another folder")
    if out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{out} lies in {folder}, where it would be taken for a class; choose another folder")
    data = load_folder(folder, extensions)
    unfinished = out.with_name(f"{out.name}.{os.getpid()}{UNFINISHED}")
    try:
        unfinished.mkdir(parents=True)
        entries = [
            entry
            for name, split in data.splits.items()
            for entry in _pack_split(name, split, folder, unfinished, shard_size, samples)
        ]
        manifest = Manifest(data.classes, tuple(entries))
        write_text(unfinished / MANIFEST, manifest.dump())
        unfinished.rename(out)
    except OSError as error:
        raise UserError(f"{folder} cannot be packed into {out}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return manifest


def _pack_split(name: str, split: Split, folder: Path, out: Path, shard_size: int, samples: int) -> Iterator[Entry]:
    from tqdm import tqdm

    keys = _keys([path.relative_to(folder).as_posix() for path in split.items])
    order = sorted(range(len(split)), key=lambda i: hashlib.sha256(keys[i].encode(errors="surrogateescape")).digest())
    sizes = [_room(split.items[i].stat().st_size) for i in order]
    with tqdm(total=len(split), desc=name, unit=" samples", leave=False, disable=None) as bar:
        for number, part in enumerate(_parts(sizes, shard_size, samples)):
            path = out / f"{name}-{number:06}.tar"
            with replacing(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
                for i in order[part]:
                    _add(tar, keys[i], split.items[i], int(split.labels[i]))
                    bar.update()
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield Entry(path.name, name, len(order[part]), path.stat().st_size, digest)


def _keys(names: Sequence[str]) -> list[str]:
    """A name of its own for each file, without dots: webdataset ends the key of a sample at the first one."""
    keys: dict[str, None] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        key = stem = f"{folder}/{file.rpartition('.')[0].replace('.', '_')}"
        number = 1
        while key in keys:
            number += 1
            key = f"{stem}_{number}"
        keys[key] = None
    return list(keys)


def _room(size: int) -> int:
    """Bytes that a file and its label take in a tar file: a header each, and both in whole blocks."""
    return (3 + -(-size // tarfile.BLOCKSIZE)) * tarfile.BLOCKSIZE


def _parts(sizes: Sequence[int], shard_size: int, samples: int) -> Iterator[slice]:
    """Divide a row of samples into shards, as few as the limits allow."""
    limit = shard_size - tarfile.RECORDSIZE  # the end of a tar file takes up to that much
    begin = total = 0
    for i, size in enumerate(sizes):
        if i > begin and (total + size > limit or (samples and i - begin == samples)):
            yield slice(begin, i)
            begin, total = i, 0
        total += size
    if sizes:
        yield slice(begin, len(sizes))


def _add(tar: tarfile.TarFile, key: str, path: Path, label: int) -> None:
    with path.open("rb") as file:
        tar.addfile(_header(key + path.suffix.lower(), os.fstat(file.fileno()).st_size), file)
    content = str(label).encode()
    tar.addfile(_header(key + ".cls", len(content)), io.BytesIO(content))


def _header(name: str, size: int) -> tarfile.TarInfo:
    """Without owner and time: they say nothing about the content, and differ from machine to machine."""
    header = tarfile.TarInfo(name)
    header.size = size
    return header
