"""Trees of small files."""

from pathlib import Path


def write_files(root: Path, *files: str) -> Path:
    """Write files whose content is their name."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(file.encode())
    return root
