"""Parsers and output that all commands share."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from unireplknet.errors import UserError, visible


class Parser(argparse.ArgumentParser):
    """Reports mistakes as every other mistake is reported: by one line."""

    def __init__(self, command: str, description: str, conflict_handler: str = "error") -> None:
        super().__init__(
            prog=f"unireplknet {command}",
            description=description,
            allow_abbrev=False,
            conflict_handler=conflict_handler,
        )

    def error(self, message: str) -> NoReturn:
        """Raise the mistake instead of leaving the process."""
        raise UserError(f"{message} ({self.prog} --help says more)")


class ViewParser(Parser):
    """The parser of a part of a command, as argparse makes it."""

    def __init__(self, prog: str, description: str, **_: Any) -> None:
        super().__init__(prog.removeprefix("unireplknet "), description)


def say(line: str = "") -> None:
    """Write a line of a command's result to standard output."""
    sys.stdout.write(visible(line, keep="\n\t") + "\n")
    sys.stdout.flush()


class VisibleFormatter(logging.Formatter):
    """Shows messages without what a terminal would act on."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as text."""
        return visible(super().format(record), keep="\n\t")


def first_line(command: Callable[..., Any]) -> str:
    """What a command does, in one line."""
    return (command.__doc__ or "").strip().partition("\n")[0]
