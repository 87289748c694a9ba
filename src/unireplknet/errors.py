"""The one exception that means: the user can put this right; and words for its messages."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input. The message says in one line what is wrong, where, and what would be right.

    The command line prints it without a stack trace; everything else that is raised is a defect of ours.
    """


def missing_extra(module: str, extra: str) -> UserError:
    """The error for an optional dependency that is not installed.

    Args:
        module: The import that failed, such as ``lightning``.
        extra: The extra of this package that brings it.

    Returns:
        An exception whose message names the command to run.
    """
    return UserError(f'{module} is not installed; run: pip install "unireplknet[{extra}]"')


def shorten(names: Iterable[str], limit: int = 5) -> str:
    """Join names for a message, at most ``limit`` of them."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (", ..." if len(listed) > limit else "")


def nearest(word: str, candidates: Iterable[str]) -> str:
    """A hint at the candidate that is most like ``word``, or nothing."""
    match = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else ""


def visible(text: str, keep: str = "") -> str:
    """Escape what a terminal would act on or cannot show: control characters, and names that are not UTF-8.

    Args:
        text: Text with names from outside in it.
        keep: Control characters that stay.

    Returns:
        Text of one line, unless ``keep`` has line breaks.
    """
    if text.isprintable():
        return text
    # Wide spaces and the joiner within emoji do no harm.
    harmless = {c for c in text if c in keep or c == "\u200d" or unicodedata.category(c) == "Zs"}
    return "".join(c if c.isprintable() or c in harmless else c.encode("unicode_escape").decode("ascii") for c in text)


class Stopped(Exception):
    """A signal ended a run in good order; the same command goes on with it.

    Args:
        message: What to tell the user.
        status: Exit status of the process.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
