"""A reader of HTML that insists: every tag is closed in its turn, and what may be asked of a page is collected."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text by the innermost tag."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        assert html.startswith("<!DOCTYPE html>")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, "tags are left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute of {tag} stands twice"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self._open:
            self.texts.append((self._open[-1], " ".join(data.split())))

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of all tags of a name."""
        return [attrs for name, attrs in self.tags if name == tag]

    def text(self, *tags: str) -> list[str]:
        """What stands directly in tags of these names."""
        return [text for tag, text in self.texts if tag in tags]


def palettes(html: str) -> dict[str, dict[str, str]]:
    """The colours of the page by mode: light, dark, and in print."""
    found = {}
    for mode, pattern in (
        ("light", r"\n:root \{(.*?)\}"),
        ("dark", r"prefers-color-scheme: dark\) \{\s*:root \{(.*?)\}"),
        ("print", r"@media print \{\s*:root \{(.*?)\}"),
    ):
        match = re.search(pattern, html, re.DOTALL)
        assert match is not None, mode
        found[mode] = dict(re.findall(r"--(\w+): (#[0-9a-f]+);", match[1]))
    return found


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours such as #1c2429, by WCAG 2.2."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)
