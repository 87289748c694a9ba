"""Labelled samples of any modality: where they lie, how they are split, and how they become batches of maps."""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from unireplknet.errors import UserError
from unireplknet.modalities.member import Member, Members
from unireplknet.randomness import random_state
from unireplknet.registry import Source

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Labelled samples that have not been read yet.

    Attributes:
        items: One file, member of an archive, or in-memory array a sample.
        labels: Class index of each sample, int64, shape (N,); where a sample may have several classes, a 1 for each
            of them and a 0 for the others, float32, shape (N, classes).
        groups: What each sample is a variant of, shape (N,): equal ones stay together when the split is divided. None
            where every sample stands alone.
    """

    items: Sequence[Any]
    labels: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        """The samples at ``indices``, in that order."""
        items = self.items
        taken = items.take(indices) if isinstance(items, Members) else [items[i] for i in indices]
        return Split(taken, self.labels[indices], None if self.groups is None else self.groups[indices])

    def label(self, index: int) -> Tensor:
        """What is to be learnt of a sample."""
        return torch.as_tensor(self.labels[index])

    def name(self, index: int) -> str:
        """What to call a sample in a message: its path, or its number where it has none."""
        item = self.items[index]
        return str(item) if isinstance(item, Path | Member) else f"sample {index}"

    def fingerprint(self) -> str:
        """A short hash of which samples these are, to notice that a split has changed since a run."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels).tobytes())
        for item in self.items:
            # Names relative to the class folder: a tree that was moved as a whole is still the same data.
            named = isinstance(item, Path | Member)
            digest.update(item.name.encode() if named else np.ascontiguousarray(item).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Labelled:
    """A labelled data set.

    Attributes:
        classes: Class names; a label is an index into them.
        splits: ``{"all": ...}`` where the source has no split of its own, otherwise some of train, val, test.
    """

    classes: tuple[str, ...]
    splits: dict[str, Split]

    @property
    def several(self) -> bool:
        """Whether a sample may have several classes."""
        return any(split.labels.ndim == 2 for split in self.splits.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs: the classes."""
        return self.classes

    def divided(self, val_fraction: float, test_fraction: float, seed: int) -> Labelled:
        """The samples under the keys train, val and test; see :func:`split_data`."""
        return split_data(self, val_fraction, test_fraction, seed)


def find_files(root: Path, extensions: Sequence[str]) -> list[Path]:
    """All files below ``root`` (or ``root`` itself) with one of the extensions, sorted; hidden ones are left out."""
    if root.is_file():
        return [root]
    found = (p for p in root.rglob("*") if p.suffix.lower() in extensions and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(root).parts))


def find_inputs(paths: Iterable[str | Path], extensions: Sequence[str]) -> list[Path]:
    """The files that a user names, and those in the folders that a user names.

    Raises:
        UserError: A path does not exist, or is a folder without such files.
    """
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path} does not exist")
        found = find_files(path, extensions)
        if not found:
            raise UserError(f"{path} has no files ending in {' '.join(extensions)}")
        files += found
    return files


def distinct_stems(files: Iterable[Path]) -> list[str]:
    """Names for what is made of files, without endings; those of the same name from several folders get a number."""
    taken: dict[str, None] = {}
    for file in files:
        names = itertools.chain([file.stem], (f"{file.stem}-{number}" for number in itertools.count(2)))
        taken[next(name for name in names if name not in taken)] = None
    return list(taken)


def load_folder(path: str | Path, extensions: Sequence[str]) -> Labelled:
    """Read the names in a class-per-folder tree.

    Two layouts: ``path/CLASS/FILE``, which has no split of its own, and ``path/{train,val,test}/CLASS/FILE``, where
    ``val`` and ``test`` may be missing. Files may lie deeper inside a class folder.

    Args:
        path: The root of the tree.
        extensions: File name endings of the modality, lower case, with the dot.

    Returns:
        The class names in sorted order and the splits that the tree has.

    Raises:
        UserError: The tree is missing or empty, a class has no file, or the splits disagree about the classes.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; expected {root}/CLASS/FILE or {root}/train/CLASS/FILE")
    splits = {name: root / name for name in SPLITS if (root / name).is_dir()}
    if "train" not in splits:
        splits = {"all": root}
    first, *others = splits.values()
    classes = _class_names(first)
    if len(classes) < 2:
        raise UserError(f"{first} has 1 class folder; at least 2 are needed")
    for folder in others:
        if unknown := sorted(set(_class_names(folder)) - set(classes)):
            raise UserError(f"{folder} has class {unknown[0]!r}, which {first} has not")
    return Labelled(
        classes,
        {name: _load_split(folder, classes, extensions, complete=folder is first) for name, folder in splits.items()},
    )


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        raise UserError(f"{folder} has no class folders; expected {folder}/CLASS/FILE")
    return names


def _load_split(folder: Path, classes: Sequence[str], extensions: Sequence[str], complete: bool) -> Split:
    items: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = find_files(folder / name, extensions)
        if complete and not files:
            wanted = " ".join(extensions)
            raise UserError(f"class {name!r} has no files: {folder / name} (looked for {wanted})")
        items += files
        labels += [label] * len(files)
    return Split(items, np.asarray(labels, dtype=np.int64))


def load_grouped(path: str | Path, extensions: Sequence[str], seed: int = 0, fold: int = 0, folds: int = 5) -> Labelled:
    """Read a class-per-folder tree of related samples, and divide it so that relatives stay on one side.

    Args:
        path: The root of the tree ``path/CLASS/FILE``, with ``path/groups.csv``, whose columns ``file`` (such as
            ``CLASS/FILE``) and ``group`` say which samples belong together.
        extensions: File name endings of the modality, lower case, with the dot.
        seed: Seed of the division.
        fold: Which of the parts is the test split.
        folds: How many parts of similar size and class frequencies there are.

    Returns:
        The class names and the train and test splits.

    Raises:
        UserError: The tree or the table is not like that.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    data, table = load_folder(path, extensions), Path(path) / "groups.csv"
    if "all" not in data.splits:
        raise UserError(f"{path} is divided already; data.source folder reads it")
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {"file", "group"} <= set(reader.fieldnames or ()):
                raise UserError(f"{table} is not a table with the columns file and group")
            group_of = {row["file"]: row["group"] for row in reader}
    except OSError as error:
        raise UserError(f"{table} is not a table that can be read: {error}") from error
    split = data.splits["all"]
    names = [item.relative_to(path).as_posix() for item in split.items]
    if missing := [name for name in names if name not in group_of]:
        raise UserError(f"{table} does not name {missing[0]}")
    division = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    train, test = list(division.split(split.labels, split.labels, [group_of[name] for name in names]))[fold]
    return Labelled(data.classes, {"train": split.take(train), "test": split.take(test)})


def split_data(data: Labelled, val_fraction: float, test_fraction: float, seed: int) -> Labelled:
    """Give every data set a train and a val split, and a test split unless its own split leaves it out.

    Stratified by class, unless samples have several, and by the number of groups where there are groups, which are not
    divided. Test is taken from the whole where the source has no split; val is always taken from what is left for
    training, so that choosing an epoch never looks at the test samples.

    Args:
        data: The source as loaded.
        val_fraction: Part of the training samples to choose the epoch with, unless the source has a val split.
        test_fraction: Part of the whole to test with, unless the source is split already.
        seed: Seed of both divisions; independent of the seed of training.

    Returns:
        The same samples under the keys train, val and, where there is one, test.

    Raises:
        UserError: A class is too small to be divided.
    """
    splits = dict(data.splits)
    if "all" in splits:
        splits["train"], splits["test"] = _divide(splits.pop("all"), test_fraction, seed, data.classes, "test")
    if "val" not in splits:
        splits["train"], splits["val"] = _divide(splits["train"], val_fraction, seed, data.classes, "val")
    return Labelled(data.classes, {name: splits[name] for name in SPLITS if name in splits})


def _divide(split: Split, fraction: float, seed: int, classes: Sequence[str], name: str) -> tuple[Split, Split]:
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise UserError(f"data.{name}_fraction is {fraction}; expected a number between 0 and 1")
    if split.labels.ndim == 2:
        kept, taken = train_test_split(np.arange(len(split)), test_size=fraction, random_state=seed)
        return split.take(kept), split.take(taken)
    noun = "sample" if split.groups is None else "group"
    groups = np.arange(len(split)) if split.groups is None else split.groups
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    labels = split.labels[first]
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        small = classes[int(counts.argmin())]
        raise UserError(
            f"class {small!r} has {counts.min()} {noun}(s): at least 2 are needed to set some aside for {name}"
        )
    if min(fraction, 1 - fraction) * len(labels) < len(classes):
        raise UserError(
            f"data.{name}_fraction {fraction} of {len(labels)} {noun}s leaves fewer than one a class"
            f" ({len(classes)} classes); raise it to {len(classes) / len(labels):.2g} or more"
        )
    kept, taken = train_test_split(np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed)
    return split.take(_samples_of(kept, member)), split.take(_samples_of(taken, member))


def _samples_of(groups: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Indices of the samples of some groups, in the order of the groups; ``member`` is the group of each sample."""
    rank = np.full(member.max() + 1, -1)
    rank[groups] = np.arange(len(groups))
    ranks = rank[member]
    return np.argsort(ranks, kind="stable")[np.count_nonzero(ranks < 0) :]


class AnySplit(Protocol):
    """What a loader needs to know of a split, whatever is to be learnt of it."""

    @property
    def items(self) -> Any:
        """By index, one raw sample each, not read yet."""

    def __len__(self) -> int: ...

    def label(self, index: int) -> Tensor:
        """What is to be learnt of a sample."""

    def name(self, index: int) -> str:
        """What to call a sample in a message."""

    def fingerprint(self) -> str:
        """A short hash of which samples these are."""


class DataSet(Protocol):
    """What training needs to know of a data set, whatever is to be learnt of it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the network's outputs."""

    @property
    def splits(self) -> Mapping[str, Any]:
        """``{"all": ...}`` where the source has no split of its own, otherwise some of train, val, test."""

    def divided(self, val_fraction: float, test_fraction: float, seed: int) -> DataSet:
        """The samples under the keys train, val and test.

        Args:
            val_fraction: Part of the training samples to choose the epoch with, where there is no val split.
            test_fraction: Part of the samples to test with, where nothing is split.
            seed: Seed of the divisions.
        """


@dataclass(frozen=True)
class Draw:
    """Which sample, in which epoch: all that decides a training map, together with the seed."""

    epoch: int
    index: int


@dataclass(frozen=True)
class Sample:
    """One map, or the reason why there is none."""

    map: Tensor | None
    label: Any
    index: int
    problem: str = ""


class Batch(NamedTuple):
    """A batch of maps.

    Attributes:
        maps: Shape (B, C, H, W), float32, or (B, V, C, H, W) where samples are looked at from several sides; of
            detectors B maps (C, H, W), since they have all sizes. B is smaller than asked for where samples were
            unreadable.
        labels: Class indices, shape (B,), int64; or what else is to be learnt of the samples, one each.
        indices: Positions in the split, shape (B,), int64.
        problems: One line for each sample that could not be read.
    """

    maps: Any
    labels: Any
    indices: Tensor
    problems: list[str]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples, leaving out the unreadable ones."""
    good = [s for s in samples if s.map is not None]
    return Batch(
        torch.stack([s.map for s in good if s.map is not None]) if good else torch.empty(0),
        torch.stack([torch.as_tensor(s.label) for s in good]) if good else torch.empty(0, dtype=torch.int64),
        torch.tensor([s.index for s in good], dtype=torch.int64),
        [s.problem for s in samples if s.map is None],
    )


def collate_apart(samples: Sequence[Sample]) -> Batch:
    """Leave out the unreadable samples, and leave maps and labels of the others apart: they have all sizes."""
    good = [s for s in samples if s.map is not None]
    indices = torch.tensor([s.index for s in good], dtype=torch.int64)
    problems = [s.problem for s in samples if s.map is None]
    return Batch([s.map for s in good], [s.label for s in good], indices, problems)


class MapDataset(Dataset[Sample]):
    """file -> read -> to_map, for every modality.

    Where the label changes with the map, as the mask of an image that is mirrored, ``to_map`` gives both.

    What a sample looks like is a function of (seed, epoch, index) alone: not of the worker that makes it, nor of what
    was drawn before. An unreadable file becomes a sample with a problem instead of an exception.

    Args:
        split: The samples.
        read: Turns an item of the split into a raw sample; of a member of an archive it gets the open file.
        to_map: Turns a raw sample into a (C, H, W) tensor, or into that and a label; may draw random numbers.
        seed: Seed of the random numbers.
    """

    def __init__(
        self, split: AnySplit, read: Callable[[Any], Any], to_map: Callable[[Any], Any], seed: int = 0
    ) -> None:
        self.split = split
        self.read = read
        self.to_map = to_map
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, draw: Draw) -> Sample:
        label = self.split.label(draw.index)
        try:
            item = self.split.items[draw.index]
            raw = self.read(item.open() if isinstance(item, Member) else item)
        except Exception as error:  # decoders raise anything; one bad file must not end a run
            return Sample(None, label, draw.index, f"{self.split.name(draw.index)}: {error}")
        with random_state(self.seed, draw.epoch, draw.index):
            try:
                made = self.to_map(raw)
                map, label = made if isinstance(made, tuple) else (made, label)
                return Sample(map, label, draw.index)
            except UserError as error:  # what is decoded on demand may turn out damaged here
                return Sample(None, label, draw.index, f"{self.split.name(draw.index)}: {error}")


class EpochSampler(Sampler[Draw]):
    """The order of one epoch, a function of (seed, epoch), and one process's part of it.

    Args:
        length: Number of samples.
        shuffle: Whether to permute them, differently in every epoch.
        seed: Seed of the permutation.
        whole: Leave out the last samples so that the rest is a multiple of this, unless there are fewer: a last batch
            of a few samples would give poor batch statistics.
        archives: Number of the archive that each sample lies in, shape (length,), to read few of them at a time.
        window: Archives that are mixed with one another before the next ones follow; 0 mixes all.
        rank: Number of the process.
        world: Number of processes. Together they take the same samples in the same steps as one process would.
    """

    def __init__(
        self,
        length: int,
        shuffle: bool,
        seed: int = 0,
        whole: int = 1,
        archives: np.ndarray | None = None,
        window: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.length = length
        self.used = length - length % whole if length >= whole else length
        self.shuffle = shuffle
        self.seed = seed
        self.archives = archives
        self.window = window
        self.rank = rank
        self.world = world
        self.epoch = 0
        self._resumed = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to iterate over next; Lightning calls this."""
        self.epoch = epoch

    def resume(self, epoch: int, samples: int) -> None:
        """Begin with an epoch that was interrupted, without the samples that were used before.

        Args:
            epoch: The epoch that was interrupted.
            samples: How many of its samples this process has used.
        """
        self.epoch = epoch
        self._resumed = (epoch, samples)

    def __len__(self) -> int:
        return len(range(self.rank, self.used, self.world))

    def __iter__(self) -> Iterator[Draw]:
        epoch = self.epoch  # loader workers ask ahead, and the epoch may be set in the meantime
        order = np.arange(self.length)
        if self.shuffle:
            generator = np.random.default_rng((self.seed, epoch))
            generator.shuffle(order)
            if self.window and self.archives is not None:
                places = generator.permutation(int(self.archives.max(initial=0)) + 1)
                order = order[np.argsort(places[self.archives[order]] // self.window, kind="stable")]
        interrupted, samples = self._resumed
        done = samples if interrupted == epoch else 0
        return (Draw(epoch, int(index)) for index in order[: self.used][self.rank :: self.world][done:])


FOLDER = Source(lambda path, inputs: load_folder(path, inputs.extensions))

GROUPED = Source(lambda path, inputs: load_grouped(path, inputs.extensions))
