import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from unireplknet.data.split import LabeledData, Split
from unireplknet.errors import UserError


def unsplit(counts: list[int]) -> LabeledData:
    labels = np.repeat(np.arange(len(counts)), counts)
    return LabeledData(tuple(map(str, range(len(counts)))), {"all": Split(list(range(len(labels))), labels)})


@given(st.lists(st.integers(12, 40), min_size=2, max_size=5), st.integers(0, 3))
def test_split_is_stratified_disjoint_and_complete(counts: list[int], seed: int) -> None:
    splits = unsplit(counts).split(0.2, 0.25, seed).splits
    items = [i for split in splits.values() for i in split.items]
    assert sorted(items) == list(range(sum(counts)))
    for split in splits.values():
        share = np.bincount(split.labels, minlength=len(counts)) / len(split)
        np.testing.assert_allclose(share, np.array(counts) / sum(counts), atol=1.5 / len(split))


def test_test_split_is_sklearns_and_does_not_depend_on_val_fraction() -> None:
    data = unsplit([30, 20, 50])
    _, expected = train_test_split(np.arange(100), test_size=0.25, stratify=data.splits["all"].labels, random_state=0)
    for fraction in (0.1, 0.3):
        assert data.split(fraction, 0.25, 0).splits["test"].items == expected.tolist()


@given(st.integers(0, 2**31), st.lists(st.integers(1, 5), min_size=24, max_size=40))
def test_groups_stay_together_and_no_sample_is_lost(seed: int, sizes: list[int]) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    data = LabeledData(("0", "1"), {"all": Split(list(range(len(groups))), groups % 2, groups)})
    splits = data.split(0.3, 0.25, seed).splits
    found = [set(split.groups.tolist()) for split in splits.values()]
    assert sum(map(len, found)) == len(set.union(*found)) == len(sizes)
    assert sorted(i for split in splits.values() for i in split.items) == list(range(len(groups)))
    for split in splits.values():
        assert (split.groups == groups[split.items]).all()
        assert (split.labels == split.groups % 2).all()


def test_groups_are_counted_where_there_are_groups() -> None:
    data = LabeledData(("0", "1"), {"all": Split([0, 1, 2, 3], np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2]))})
    with pytest.raises(UserError, match=r"class '1' has 1 group\(s\): at least 2 are needed"):
        data.split(0.2, 0.5, 0)


@pytest.mark.parametrize(
    ("counts", "fraction", "message"),
    [
        ([5, 1], 0.25, r"class '1' has 1 sample\(s\): at least 2 are needed to set some aside for test"),
        (
            [4, 4],
            0.1,
            r"data.test_fraction 0.1 of 8 samples leaves fewer than one per class \(2 classes\); increase it to 0.25",
        ),
        ([9, 9], 1.5, r"data.test_fraction is 1.5; expected a number between 0 and 1"),
    ],
)
def test_impossible_divisions_are_named(counts: list[int], fraction: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        unsplit(counts).split(0.2, fraction, 0)
