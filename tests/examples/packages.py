"""Small packages as package managers unpack them."""

import io
import json
import tarfile
from pathlib import Path

from PIL import Image

TONES = ("1F3FB", "1F3FF")


CATEGORIES = ("Animals & Nature", "People & Body")


def entry(unified: str, category: str, tones: tuple[str, ...] = (), vendor: str = "acme") -> dict[str, object]:
    def drawing(code: str) -> dict[str, object]:
        return {"unified": code, "image": f"{code.lower()}.png", f"has_img_{vendor}": True}

    first, *rest = unified.split("-")
    variations = {tone: drawing("-".join([first, tone, *rest])) for tone in tones}
    return drawing(unified) | {"category": category} | ({"skin_variations": variations} if tones else {})


def write_package(root: Path, table: list[dict[str, object]], vendor: str = "acme") -> Path:
    folder = root / "img" / vendor / "64"
    folder.mkdir(parents=True)
    (root / "img" / vendor / "sheets").mkdir()
    (root / "emoji.json").write_text(json.dumps(table), encoding="utf-8")
    for emoji in table:
        for drawing in (emoji, *emoji.get("skin_variations", {}).values()):
            if drawing[f"has_img_{vendor}"]:
                Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(folder / drawing["image"])
    return root


def table(vendor: str = "acme") -> list[dict[str, object]]:
    """Twelve animals, and twelve professions as person, man and woman in three skins each: nine drawings a group."""
    animals = [entry(f"1F4{i:02X}", CATEGORIES[0], vendor=vendor) for i in range(12)]
    people = [
        entry(f"{person}-200D-1F5{i:02X}", CATEGORIES[1], TONES, vendor)
        for i in range(12)
        for person in ("1F9D1", "1F468", "1F469")
    ]
    return [*animals, *people, entry("1F3FB", "Component", vendor=vendor)]


def write_tar(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            info, content = (
                (member, b"") if isinstance(member, tarfile.TarInfo) else (tarfile.TarInfo(member[0]), member[1])
            )
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
