"""The .ts files of the UCR / UEA archive: series to classify."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from unireplknet.data.series.grid import NO_TIMES, Window
from unireplknet.errors import UserError


def read_ts_file(path: Path) -> Window:
    """Read a .ts file that holds one series, of one or several dimensions.

    Raises:
        UserError: It is not a .ts file, or holds several series.
    """
    cases = read_ts(path)
    if len(cases) != 1:
        raise UserError(f"{path} holds {len(cases)} series, expected one a file; data.source ts reads whole archives")
    return cases[0][0]


def read_ts(path: Path) -> list[tuple[Window, str]]:
    """Read the series of a .ts file and their class labels ("" without).

    The text format of the UCR / UEA archive: lines with ``@``, then ``@data``, then one series a line, dimensions
    divided by ``:``, numbers by ``,``, ``?`` for a missing one, the label last. Dimensions may differ in length.

    Raises:
        UserError: The format is another one; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    cases: list[tuple[Window, str]] = []
    labelled, in_data = False, False
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if not in_data:
            key, value = words[0].lower(), words[1].lower() if len(words) > 1 else ""
            if key == "@timestamps" and value == "true":
                raise UserError(f"{path} line {number}: series with time stamps are not read; write plain numbers")
            labelled = value == "true" if key == "@classlabel" else labelled
            in_data = key == "@data"
            continue
        parts = line.strip().split(":")
        label = parts.pop() if labelled else ""
        try:
            columns = [[math.nan if n.strip() == "?" else float(n) for n in part.split(",")] for part in parts]
        except ValueError as error:
            raise UserError(f"{path} line {number}: {error}") from error
        if not columns:
            raise UserError(f"{path} line {number} has a class label and no numbers")
        values = np.full((max(map(len, columns)), 1, len(columns)), np.nan, np.float32)
        for dimension, column in enumerate(columns):
            values[: len(column), 0, dimension] = column
        cases.append((Window(values, NO_TIMES), label.strip()))
    if not in_data:
        raise UserError(f"{path} has no @data line: it is not a .ts file")
    return cases
