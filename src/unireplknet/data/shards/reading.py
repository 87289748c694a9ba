"""WebDataset shards as a source of labeled samples: tar files of ``KEY.jpg`` beside ``KEY.cls``.

Each shard is read once as a whole, when it is first used: its checksum is compared with the manifest, and the positions
of its samples are kept in the cache. From then on a sample is a range of bytes in a file (:class:`ShardSample`), read
in place like a file in a folder. Shards behind a URL are first copied into the cache.

Why not a stream, as the webdataset library reads: a stream knows neither its length nor its position. Here the number
of samples is known up front and each has an index, so that order, augmentation, equal steps on every process, every
sample once an epoch, and bit-exact resume within an epoch are those of any other source, by the same code. The cost is
disk space for remote shards. Slow disks dislike random reads; ``data.window`` keeps them close together.

Nothing in a shard is unpickled or executed.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unireplknet.data.shards.manifest import FORMAT, MANIFEST, Entry, Manifest
from unireplknet.data.shards.samples import ShardSamples
from unireplknet.data.split import LabeledData, Split
from unireplknet.errors import UserError, missing_extra
from unireplknet.files import replacing
from unireplknet.registry import Source

logger = logging.getLogger(__name__)

CACHE = "UNIREPLKNET_CACHE"
"""Environment variable with the folder of indices and of shards that were fetched."""

THREADS = 8
"""Shards that are fetched and checked at the same time."""

SPLIT_NAME = re.compile(r"(?<![a-z])(train|val|valid|validation|test)(?![a-z])")

NOTE = re.compile(r"__[^/]*__($|/)")
"""Names that webdataset keeps for itself."""


@dataclass(frozen=True)
class Shard:
    """A shard that has not been opened yet.

    Attributes:
        place: Path or URL.
        split: The split that its samples belong to, or "all".
        entry: What the manifest says about it, if there is one.
    """

    place: str
    split: str
    entry: Entry | None = None


@dataclass(frozen=True)
class Index:
    """The samples of a shard.

    Attributes:
        names: Name of the file of each, shape (N,).
        offsets: Where its bytes begin, shape (N,), int64.
        sizes: How many there are, shape (N,), int64.
        labels: Class of each, shape (N,), int64.
        sha256: Checksum of the whole shard, shape ().
    """

    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    sha256: np.ndarray


def load_shards(location: str | Path, extensions: Sequence[str]) -> LabeledData:
    """Find shards, check them, and read which samples they hold.

    Args:
        location: A folder of shards, a manifest, a shard, a pattern with ``*`` or ``{000..127}``, or a text file of
            such lines; manifest and shards may be URLs, as fsspec knows them. A manifest beside local shards counts.
        extensions: File name endings of the modality, lower case, with the dot.

    Returns:
        The classes, named by the manifest (numbered where there is none), and the splits: those of the manifest;
        without one, what "train", "val" or "test" in the name of a shard or of its folder says.

    Raises:
        UserError: A shard or manifest is missing, damaged, or not what the other one says.
    """
    shards, classes = find_shards(location)
    prepared = _for_each(shards, lambda shard: _prepare(shard, tuple(extensions)))
    labels = np.concatenate([index.labels for _, index in prepared])
    classes = classes or tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))
    if len(classes) < 2:
        raise UserError(f"the shards in {location} have {len(classes)} class(es); at least 2 are needed")
    for shard, (_, index) in zip(shards, prepared, strict=True):
        if index.labels.size and index.labels.max() >= len(classes):
            raise UserError(f"{shard.place} has a sample of class {index.labels.max()}, there are {len(classes)}")
    splits = {}
    for name in dict.fromkeys(shard.split for shard in shards):
        splits[name] = _join([found for shard, found in zip(shards, prepared, strict=True) if shard.split == name])
    return LabeledData(classes, splits)


def find_shards(location: str | Path) -> tuple[list[Shard], tuple[str, ...]]:
    """The shards that a location means, without opening them, and the class names if a manifest tells.

    Raises:
        UserError: There are none, or they do not fit each other.
    """
    shards: list[Shard] = []
    classes: dict[tuple[str, ...], str] = {}
    listed: dict[str, dict[str, Entry]] = {}

    def manifest(place: str) -> dict[str, Entry]:
        if place not in listed:
            read = Manifest.parse(_content(place), place)
            classes.setdefault(read.classes, place)
            listed[place] = {entry.file: entry for entry in read.shards}
        return listed[place]

    for place in _expand(location):
        beside = _beside(place, MANIFEST)
        if place.endswith(".json"):
            shards += [Shard(_beside(place, e.file), e.split, e) for e in manifest(place).values()]
        elif not _is_remote(place) and Path(beside).is_file():
            entry = manifest(beside).get(Path(place).name)
            if entry is None:
                raise UserError(f"{place} is not in {beside}; move it away, or pack the folder again")
            shards.append(Shard(place, entry.split, entry))
        else:
            shards.append(Shard(place, _named_split(place)))
    shards = list({shard.place: shard for shard in shards}.values())  # named twice, it is still read once
    if not shards:
        raise UserError(f"{location} has no shards; expected *.tar, as `unireplknet pack` makes them")
    if len(classes) > 1:
        raise UserError(f"{' and '.join(classes.values())} name different classes")
    unlike = [shard for shard in shards if shard.split == "all"]
    if unlike and len(unlike) < len(shards):
        raise UserError(f"the name of {unlike[0].place} does not say train, val or test, as others do")
    if not unlike and all(shard.split != "train" for shard in shards):
        raise UserError(f"{location} has no shards to train with, only {shards[0].split}")
    return shards, next(iter(classes), ())


def _expand(location: str | Path) -> list[str]:
    """Paths and URLs of shards and manifests, in a fixed order."""
    text = location if isinstance(location, str) else location.as_posix()
    text = re.sub(r"^([a-z][a-z0-9+.-]+):/+", r"\1://", text)  # a Path has folded the slashes of a URL into one
    if _is_remote(text):
        return _expand_braces(text)
    path = Path(text)
    if path.is_dir():
        if (path / MANIFEST).is_file():
            # Both, to notice a shard that only one of them has.
            return [str(path / MANIFEST), *map(str, sorted(path.glob("*.tar")))]
        return [str(file) for file in sorted(path.rglob("*.tar"))]
    if path.suffix == ".txt" and path.is_file():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        wanted = [line for line in lines if line and not line.startswith("#")]
        return [place for line in wanted for place in _expand(line if _is_remote(line) else path.parent / line)]
    return [place for pattern in _expand_braces(text) for place in _expand_glob(Path(pattern))]


def _expand_braces(text: str) -> list[str]:
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise missing_extra("braceexpand", "train") from error
    try:
        return list(braceexpand(text, escape=False))  # a backslash is a folder on Windows
    except ValueError as error:
        raise UserError(f"{text}: {error}") from error


def _expand_glob(path: Path) -> list[str]:
    if path.exists():
        return [str(path)]
    found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not found:
        raise UserError(f"{path} does not exist; expected a folder, shards, a manifest or a list of them")
    return [str(file) for file in found]


def _is_remote(place: str) -> bool:
    return "://" in place


def _beside(place: str, name: str) -> str:
    return f"{place.rpartition('/')[0]}/{name}" if _is_remote(place) else str(Path(place).parent / name)


def _named_split(place: str) -> str:
    *_, folder, file = ["", *re.split(r"[/\\]", place.lower())]
    found = SPLIT_NAME.search(file) or SPLIT_NAME.fullmatch(folder)
    if found is None:
        return "all"
    return "val" if found[0].startswith("val") else found[0]


def _for_each(shards: Sequence[Shard], work: Callable[[Shard], Any]) -> list[Any]:
    from tqdm import tqdm

    with ThreadPoolExecutor(THREADS) as pool:
        # disable=None: a bar in a terminal only.
        return list(tqdm(pool.map(work, shards), "shards", len(shards), leave=False, disable=None))


def _prepare(shard: Shard, extensions: tuple[str, ...]) -> tuple[Path, Index]:
    """Bring a shard here if it is elsewhere, check it, and index it.

    Raises:
        UserError: It is missing, damaged, or not what the manifest says.
    """
    path = _fetch(shard) if _is_remote(shard.place) else Path(shard.place)
    try:
        if not path.is_file():
            raise UserError(f"{path} is missing" + (f"; {MANIFEST} lists it" if shard.entry else ""))
        _compare(shard, "bytes", path.stat().st_size)
        index = _cached_index(path, extensions)
        _compare(shard, "sha256", str(index.sha256))
        _compare(shard, "samples", len(index.labels))
    except UserError:
        if _is_remote(shard.place):
            path.unlink(missing_ok=True)  # the next attempt fetches it again
        raise
    return path, index


def _compare(shard: Shard, name: str, found: int | str) -> None:
    expected = getattr(shard.entry, name, found)
    if found != expected:
        raise UserError(
            f"{shard.place} is not what {MANIFEST} says: {name} is {found}, expected {expected};"
            " copy it again, or pack the folder again"
        )


def _cached_index(path: Path, extensions: tuple[str, ...]) -> Index:
    """The index of a local shard, made anew if the file has changed."""
    state = path.stat()
    identity = (FORMAT, str(path.resolve()), state.st_size, state.st_mtime_ns, extensions)
    with _cached(f"indices/{_short_hash(repr(identity))}.npz") as file:
        if file.exists():
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    return Index(**{name: arrays[name] for name in arrays.files})
            except Exception as error:  # a damaged zip file fails in many ways
                logger.warning("%s is made anew: %s", file, error)
        index = index_shard(path, extensions)
        with replacing(file) as out:
            np.savez(out, **vars(index))
        return index


def index_shard(path: Path, extensions: Sequence[str]) -> Index:
    """Read a shard from end to end: its checksum, and where its samples lie.

    Args:
        path: A tar file in WebDataset's layout: the files of a sample follow each other and have the same name up to
            the first dot; ``.cls`` holds the class as a number.
        extensions: File name endings of the modality, lower case, with the dot.

    Raises:
        UserError: It is cut off, damaged or compressed, or a sample in it lacks its label or its file.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                samples = list(_samples(tar, path, extensions))
                # tarfile takes a file that ends between two members, and one with rubbish there, for a whole one.
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise UserError(f"{path} is cut off or damaged at byte {tar.offset}; copy it again")
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path} is not a whole, uncompressed tar file: {error}") from error
    names = np.array([name for name, *_ in samples], np.str_)
    offsets, sizes, labels = np.array([rest for _, *rest in samples], np.int64).reshape(-1, 3).T.copy()
    return Index(names, offsets, sizes, labels, np.array(digest))


def _samples(tar: tarfile.TarFile, path: Path, extensions: Sequence[str]) -> Iterator[tuple[str, int, int, int]]:
    """Name, offset, size and label of each sample, grouped as webdataset does."""
    for key, group in itertools.groupby(_fields(tar), lambda field: field[0]):
        fields = [field[1:] for field in group]
        members = dict(fields)
        if len(members) < len(fields):
            raise UserError(f"{path}: there are two samples {key!r}, one after the other")
        found = [ending for ending in members if ending in extensions]
        if len(found) != 1:
            raise UserError(
                f"{path}: sample {key!r} has {' '.join(members)}; expected one file ending in {' '.join(extensions)}"
            )
        if ".cls" not in members:
            raise UserError(f"{path}: sample {key!r} has no .cls file, which would hold its class as a number")
        content = tar.extractfile(members[".cls"])
        label = content.read().strip() if content else b""
        if not label.isdigit():
            raise UserError(f"{path}: {members['.cls'].name} holds {label[:20]!r}; expected the class as a number")
        member = members[found[0]]
        name = member.name.encode("utf-8", "backslashreplace").decode()
        yield name, member.offset_data, member.size, int(label)


def _fields(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, ending and member of each file."""
    for member in tar:
        folder, _, file = member.name.rpartition("/")
        stem, dot, ending = file.partition(".")
        if member.isreg() and stem and dot and not NOTE.match(member.name):
            yield f"{folder}/{stem}".lstrip("/"), f".{ending.lower()}", member


def _join(prepared: Sequence[tuple[Path, Index]]) -> Split:
    """One split from the shards of which it consists."""
    paths, indices = zip(*prepared, strict=True)
    names = np.concatenate([index.names.astype(np.dtypes.StringDType()) for index in indices])
    offsets, sizes, labels = (
        np.concatenate([getattr(index, column) for index in indices]) for column in ("offsets", "sizes", "labels")
    )
    shard_index = np.repeat(np.arange(len(paths), dtype=np.int32), [len(index.labels) for index in indices])
    return Split(ShardSamples(tuple(paths), shard_index, names, offsets, sizes), labels)


def _content(place: str) -> bytes:
    """A small file, here or elsewhere."""
    try:
        if not _is_remote(place):
            return Path(place).read_bytes()
        with _opened(place) as file:
            return file.read()
    except UserError:
        raise
    except Exception as error:  # each protocol raises its own
        raise UserError(f"{place} cannot be read: {error!r}") from error


def _fetch(shard: Shard) -> Path:
    """Copy a shard into the cache, unless it is there."""
    # Under its checksum too: after a new packing behind the same URL the old copy is not the one that is meant.
    key = _short_hash(f"{shard.place} {shard.entry.sha256 if shard.entry else ''}")
    with _cached(f"shards/{key}/{PurePosixPath(shard.place.partition('?')[0]).name}") as path:
        if not path.exists():
            try:
                with _opened(shard.place) as source, replacing(path) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            except UserError:
                raise
            except Exception as error:  # each protocol raises its own
                raise UserError(f"{shard.place} cannot be fetched to {path}: {error!r}") from error
        return path


def _opened(url: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise missing_extra("fsspec", "train") from error
    try:
        return fsspec.open(url, "rb")
    except (ImportError, ValueError) as error:  # a protocol that needs another package, or that there is not
        raise UserError(f"{url}: {error}") from error


@contextmanager
def _cached(name: str) -> Iterator[Path]:
    """A file in the cache, for this process alone."""
    from filelock import FileLock

    path = Path(os.environ.get(CACHE, Path.home() / ".cache" / "unireplknet")) / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    except OSError as error:
        raise UserError(f"the cache {path.parent} cannot be written: {error}; set {CACHE} to another folder") from error
    try:
        yield path
    finally:
        lock.release()


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


SHARDS = Source(lambda path, inputs: load_shards(path, inputs.extensions))
