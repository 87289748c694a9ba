import numpy as np
from sklearn import datasets

from unireplknet.data.sources.digits import load_digits


def test_digits_are_scikit_learns() -> None:
    data = load_digits()
    split = data.splits["all"]
    truth = datasets.load_digits()
    assert data.classes == tuple("0123456789")
    np.testing.assert_allclose(np.stack(split.items) / 255 * 16, truth.images, atol=0.04)
    assert (split.labels == truth.target).all()
