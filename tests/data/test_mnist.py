import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from unireplknet.data.sources.mnist import load_mnist
from unireplknet.errors import UserError


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, ending: str = "", dot: str = "-") -> np.ndarray:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 6, 4))
    for prefix, count in (("train", 5), ("t10k", 2)):
        write_idx(folder / f"{prefix}-images{dot}idx3-ubyte{ending}", images[:count])
        write_idx(folder / f"{prefix}-labels{dot}idx1-ubyte{ending}", np.arange(count))
    return images


@pytest.mark.parametrize(("ending", "dot"), [("", "-"), (".gz", "-"), ("", ".")])
def test_mnist_files(tmp_path: Path, ending: str, dot: str) -> None:
    images = write_mnist(tmp_path, ending, dot)
    data = load_mnist(tmp_path)
    assert data.classes == tuple("01234")
    assert (np.stack(data.splits["train"].items) == images).all()
    assert data.splits["test"].labels.tolist() == [0, 1]


def test_mnist_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte is missing \(nor is there a .gz\)"):
        load_mnist(tmp_path)
    write_mnist(tmp_path)
    file = tmp_path / "t10k-images-idx3-ubyte"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte is cut off: 63 bytes for the shape \(2, 6, 4\)"):
        load_mnist(tmp_path)
    file.write_bytes(b"<html>")
    with pytest.raises(UserError, match="is not an idx file of bytes in 3 dimensions"):
        load_mnist(tmp_path)
    file.write_bytes(content)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.arange(3))
    with pytest.raises(UserError, match="t10k has 2 images and 3 labels"):
        load_mnist(tmp_path)
