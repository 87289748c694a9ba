"""Colour emoji as drawn by a vendor: the npm packages ``emoji-datasource-VENDOR``, unpacked.

    npm pack emoji-datasource-google && tar xf emoji-datasource-google-*.tgz     # makes the folder "package"

The drawings belong to the vendors: they are read where they lie and never copied.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet.data.split import LabeledData
from unireplknet.errors import UserError
from unireplknet.registry import Source

QUALIFIERS = {
    *("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"),  # skin tones
    *("1F9B0", "1F9B1", "1F9B2", "1F9B3"),  # hair
    *("2640", "2642", "27A1"),  # female, male, facing right
    *("200D", "FE0F"),  # joiner, emoji style
}
"""Codes that vary a drawing without making another one of it."""

SAME_CODE = {
    **dict.fromkeys(("1F468", "1F469", "1F471", "1F9D4"), "1F9D1"),  # man, woman, blond, bearded: person
    **dict.fromkeys(("1F466", "1F467"), "1F9D2"),  # boy, girl: child
    **dict.fromkeys(("1F474", "1F475"), "1F9D3"),  # old man, old woman: older person
    **dict.fromkeys(("1F930", "1FAC3"), "1FAC4"),  # pregnant woman, man: person
    **dict.fromkeys(("1F478", "1FAC5"), "1F934"),  # princess, person with crown: prince
    **dict.fromkeys((f"{code:X}" for code in range(0x1F551, 0x1F568)), "1F550"),  # half past six, ...: one o'clock
    **dict.fromkeys(("1F509", "1F50A"), "1F508"),  # louder and louder speakers
}
"""Codes whose drawings differ by a detail."""

SAME_SEQUENCE = {
    **dict.fromkeys(("1F46B", "1F46C", "1F46D"), "1F9D1-1F91D"),  # couples that hold hands
    "1F48F": "1F9D1-2764-1F48B",  # kiss
    "1F491": "1F9D1-2764",  # couple with heart
    "1F46A": "1F9D1-1F9D2",  # family
    **dict.fromkeys(("1F385", "1F936"), "1F9D1-1F384"),  # father, mother Christmas
    "1F1ED-1F1F2": "1F1E6-1F1FA",  # territories under the flag of Australia,
    **dict.fromkeys(("1F1E7-1F1FB", "1F1F8-1F1EF"), "1F1F3-1F1F4"),  # Norway,
    **dict.fromkeys(("1F1E8-1F1F5", "1F1F2-1F1EB"), "1F1EB-1F1F7"),  # France,
    "1F1EA-1F1E6": "1F1EA-1F1F8",  # Spain,
    "1F1FA-1F1F2": "1F1FA-1F1F8",  # the United States,
    "1F1E9-1F1EC": "1F1EE-1F1F4",  # the British Indian Ocean Territory
    "1F1F2-1F1E8": "1F1EE-1F1E9",  # Monaco's flag is Indonesia's
    "1F1E8-1F1F6": "1F1F8-1F1E6",  # for Sark, Google draws the flag of Saudi Arabia
}
"""Sequences, without qualifiers, whose drawing is that of another one."""


def subject(unified: str) -> str:
    """What an emoji shows, whatever the skin, hair, gender and direction: the group that no split may divide.

    It depends on the code alone, so that all vendors' drawings of a subject share it.

    Args:
        unified: The code points in hexadecimal, joined by "-".

    Returns:
        The code points that matter, each once.
    """
    codes = [SAME_CODE.get(code, code) for code in unified.split("-") if code not in QUALIFIERS]
    sequence = "-".join(dict.fromkeys(codes))
    return SAME_SEQUENCE.get(sequence, sequence)


def load_emoji(path: str | Path) -> LabeledData:
    """Read the names in an unpacked ``emoji-datasource-VENDOR``: drawings of 64 x 64 pixels in nine categories.

    Variants of a drawing are one group. The five swatches of the category "Component" are left out: they are no emoji.

    Args:
        path: The folder of emoji.json.

    Returns:
        The categories and the drawings, without a split of their own. Two vendors' packages of the same version
        differ in the pictures only, so they are divided alike.

    Raises:
        UserError: The folder is not such a package.
    """
    root = Path(path)
    vendors = sorted(p.parent.name for p in root.glob("img/*/64"))
    if len(vendors) != 1:
        found = f"holds {', '.join(vendors)}" if vendors else "is missing"
        raise UserError(f"{root / 'img' / 'VENDOR' / '64'} {found}; expected an unpacked emoji-datasource-VENDOR")
    try:
        drawings = _drawings(json.loads((root / "emoji.json").read_text(encoding="utf-8")), vendors[0])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{root / 'emoji.json'} is not the table of an emoji-datasource: {error!r}") from error
    folder = root / "img" / vendors[0] / "64"
    names = [category for _, category, _ in drawings]
    data = LabeledData.from_names({"all": ([folder / name for name, _, _ in drawings], names)})
    groups = np.array([group for _, _, group in drawings])
    return replace(data, splits={"all": replace(data.splits["all"], groups=groups)})


def _drawings(table: list[dict[str, Any]], vendor: str) -> list[tuple[str, str, str]]:
    """File name, category and subject of every drawing that the vendor has, in the order of the table."""
    return [
        (Path(variant["image"]).name, emoji["category"], subject(emoji["unified"]))
        for emoji in table
        if emoji["category"] != "Component"
        for variant in (emoji, *emoji.get("skin_variations", {}).values())
        if variant[f"has_img_{vendor}"]
    ]


EMOJI = Source(lambda path, inputs: load_emoji(path))
