"""Files that were made of a run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from unireplknet.errors import UserError
from unireplknet.report.document import Section, Table, Text
from unireplknet.report.material import Material
from unireplknet.training.loader import build_loader


def exports(material: Material) -> Section:
    """Which files were made of the run, and whether they still agree with it."""
    found = sorted(p for p in material.run.path.glob("model[.-]*") if p.name != "model.safetensors")
    if not found:
        return Section("export", "Export", [Text("Not exported.")])
    rows = []
    for path in found:
        size = sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())
        made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        rows.append((path.name, f"{size / 1e6:.2f} MB", f"{made:%Y-%m-%d %H:%M} UTC", _agreement(material, path)))
    table = Table("Files in the run folder", ("File", "Size", "Written", "Check"), rows, (1,))
    return Section("export", "Export", [table])


def _agreement(material: Material, path: Path) -> str:
    """How far the outputs of an exported file are from the run's, on some val samples."""
    if path.suffix != ".onnx" or not (material.recipe.task.exports and material.recipe.task.free_size):
        return "not checked here"
    from unireplknet.deploy.exported import Exported
    from unireplknet.deploy.merge import relative_error

    try:
        loader = build_loader(material.recipe, material.data.splits["val"])
        maps = next(batch.maps for batch in loader if len(batch.maps))[:16]
        error = relative_error(Exported.open(path).load_model(), material.run.load_model(), maps)
    except UserError as problem:
        return f"not checked: {problem}"
    except Exception as problem:  # other makers' files may fail anywhere in the runtime
        return f"cannot be run: {' '.join(str(problem).split())[:200]}"
    return f"largest relative difference from the run on {len(maps)} val samples: {error:.1e}"
