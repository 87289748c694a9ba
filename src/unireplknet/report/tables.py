"""Tables that several sections have."""

from __future__ import annotations

from collections.abc import Sequence

from unireplknet.report.document import Details, Part, Table, Text

MANY = 40
"""A table of more rows than this is folded away."""


def of_classes(table: Table) -> Part:
    """A row for each class, folded away where there are many."""
    return Details(f"All {len(table.rows)} classes", [table]) if len(table.rows) > MANY else table


def unreadable(where: str, problems: Sequence[str]) -> list[Part]:
    """How many samples were unreadable, and why."""
    if not problems:
        return [Text(f"No unreadable samples {where}.")]
    table = Table(f"Unreadable samples {where}", ("Sample, and why",), [(problem,) for problem in problems])
    return [Text(f"{len(problems)} unreadable sample(s) {where} were left out."), Details("Which ones", [table])]
