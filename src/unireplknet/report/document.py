"""A page in parts that know nothing of HTML, and the one template that makes HTML of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import ClassVar

import numpy as np

from unireplknet._version import __version__
from unireplknet.errors import missing_extra


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        caption: What it holds.
        head: Names of the columns.
        rows: The cells, as many a row as there are columns.
        numbers: Positions of the columns that hold numbers.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()


@dataclass(frozen=True)
class Picture:
    """A picture, inside the page.

    Attributes:
        png: A PNG file.
        width: In pixels.
        height: In pixels.
        alt: What is to be seen, for those who do not see it.
        caption: Below it.
    """

    kind: ClassVar[str] = "picture"
    png: bytes
    width: int
    height: int
    alt: str
    caption: str = ""

    @staticmethod
    def of(source: Path | bytes | np.ndarray, alt: str, caption: str = "") -> Picture:
        """A picture from a PNG file, its content, or pixels (H, W, 3), uint8, as small a file as 256 colours allow."""
        try:
            from PIL import Image
        except ImportError as error:
            raise missing_extra("pillow", "train") from error
        if isinstance(source, np.ndarray):
            image = Image.fromarray(source)
        else:
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source).convert("RGB")
        files = []
        for version in (image, image.quantize(256, dither=Image.Dither.NONE)):
            file = io.BytesIO()
            version.save(file, "PNG", optimize=True)
            files.append(file.getvalue())
        return Picture(min(files, key=len), *image.size, alt, caption)

    @property
    def uri(self) -> str:
        """The file as an address that needs no network."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Sample:
    """A sample and what the network takes it for."""

    picture: Picture
    said: str
    sure: str
    truth: str
    name: str


@dataclass(frozen=True)
class Samples:
    """Samples side by side."""

    kind: ClassVar[str] = "samples"
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Details:
    """Parts that are folded away."""

    kind: ClassVar[str] = "details"
    summary: str
    parts: Sequence[Part]


Part = Text | Facts | Table | Picture | Samples | Details


@dataclass(frozen=True)
class Section:
    """What stands under one heading.

    Attributes:
        id: Its address in the page.
        title: The heading.
        parts: From top to bottom.
    """

    id: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Document:
    """A page.

    Attributes:
        title: The heading, and the name of the window.
        lead: A line below it.
        headline: What to know first: names and values.
        sections: From top to bottom.
        made: By what and when, at the foot.
    """

    title: str
    lead: str
    headline: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    made: str

    def html(self) -> str:
        """The page as one HTML file. Everything in the parts is text: nothing of it is taken for HTML."""
        try:
            from jinja2 import Environment, StrictUndefined
        except ImportError as error:
            raise missing_extra("jinja2", "train") from error
        template = resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(template).render(document=self, version=__version__)
