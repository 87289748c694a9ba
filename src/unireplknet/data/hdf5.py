"""Arrays of HDF5 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unireplknet.errors import UserError, missing_extra


def read_array(path: Path, key: str, index: Any = ()) -> np.ndarray:
    """Read an array of an HDF5 file.

    Args:
        path: The file.
        key: Name of the array.
        index: Which part of it; all by default.

    Raises:
        UserError: The file is missing, is not HDF5 or has no such array.
    """
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "points") from error
    try:
        with h5py.File(path) as file:
            return np.asarray(file[key][index])
    except (OSError, KeyError) as error:
        raise UserError(f"{path} has no readable {key!r}: {error}") from error
