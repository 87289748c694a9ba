"""What the shards of a data set hold, in a file beside them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from unireplknet.data.split import SPLITS
from unireplknet.errors import UserError

MANIFEST = "manifest.json"

FORMAT = "unireplknet shards 1"
"""First entry of a manifest; another layout gets another number."""


@dataclass(frozen=True)
class Entry:
    """What a manifest says about a shard.

    Attributes:
        file: Its name, relative to the manifest.
        split: "train", "val", "test", or "all" where the data have no split of their own.
        samples: Number of samples.
        bytes: Size of the file.
        sha256: Checksum of the file, in hexadecimal.
    """

    file: str
    split: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What the shards of a data set hold.

    Attributes:
        classes: Class names; a label is an index into them.
        shards: The shards.
    """

    classes: tuple[str, ...]
    shards: tuple[Entry, ...]

    def dump(self) -> str:
        """The manifest as JSON."""
        content = {"format": FORMAT, "classes": self.classes, "shards": [asdict(entry) for entry in self.shards]}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @staticmethod
    def parse(text: bytes, place: str) -> Manifest:
        """Read JSON that :meth:`dump` wrote.

        Args:
            text: The JSON.
            place: Where it comes from, for messages.

        Raises:
            UserError: It is something else.
        """
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise UserError(f"{place} has the format {content['format']!r}; expected {FORMAT!r}")
            shards = tuple(Entry(**entry) for entry in content["shards"])
            if wrong := {entry.split for entry in shards} - {*SPLITS, "all"}:
                raise UserError(f"{place} has a split {min(wrong)!r}; expected {', '.join(SPLITS)} or all")
            return Manifest(tuple(content["classes"]), shards)
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{place} is not a manifest of `unireplknet pack`: {error!r}") from error
