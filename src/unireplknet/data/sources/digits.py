"""The digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from unireplknet.data.split import LabeledData, Split
from unireplknet.registry import Source


def load_digits() -> LabeledData:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, without a split of their own."""
    from sklearn import datasets

    digits = datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    names = tuple(str(name) for name in digits.target_names)
    return LabeledData(names, {"all": Split(list(images), digits.target.astype(np.int64))})


DIGITS = Source(lambda path, inputs: load_digits(), needs_path=False)
