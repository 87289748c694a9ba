import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander

from tests.runs import write_tree
from unireplknet.data.shards.manifest import MANIFEST
from unireplknet.data.shards.packing import _keys, _parts, pack
from unireplknet.errors import UserError
from unireplknet.modalities.image import ImageInput

ENDINGS = ImageInput.extensions


def by_webdataset(*shards: Path) -> list[tuple[str, str, bytes, int]]:
    """Key, ending, content and class of each sample."""
    samples = []
    for path in shards:
        with path.open("rb") as stream:  # WebDataset itself leaves files open, which is a warning
            for sample in group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])):
                (ending,) = (name for name in sample if name != "cls" and not name.startswith("__"))
                samples.append((sample["__key__"], ending, sample[ending], int(sample["cls"])))
    return samples


def test_webdataset_reads_every_file_as_it_was(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", count=5)
    (tree / "blue" / "00.JPG").write_bytes(b"the same stem")  # contents are not looked at
    (tree / "blue" / "a.b.png").write_bytes(b"dots")
    (tree / "blue" / "a_b.png").write_bytes(b"no dots")
    (tree / "blue" / "deep").mkdir()
    (tree / "blue" / "deep" / f"{'long' * 40}.png").write_bytes(b"deep")
    manifest = pack(tree, tmp_path / "out", ENDINGS, samples=6)
    assert [entry.samples for entry in manifest.shards] == [6, 6, 6, 2]
    samples = by_webdataset(*sorted((tmp_path / "out").glob("*.tar")))
    found = sorted((manifest.classes[label], content) for _, _, content, label in samples)
    expected = sorted((path.relative_to(tree).parts[0], path.read_bytes()) for path in tree.rglob("*.*"))
    assert found == expected
    assert len({key for key, *_ in samples}) == len(samples)
    assert all(key.startswith(manifest.classes[label] + "/") for key, _, _, label in samples)
    assert len({label for *_, label in samples[:6]}) > 1, "classes are mixed"


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        pack(write_tree(tmp_path / name / "tree", count=4), tmp_path / name / "out", ENDINGS, samples=5)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name / "out").iterdir()} for name in ("one", "two"))
    assert len(one) == 4
    assert one == two


def test_splits_are_packed_apart(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_tree(tmp_path / "tree" / split, count=2)
    manifest = pack(tmp_path / "tree", tmp_path / "out", ENDINGS)
    assert [(e.file, e.split, e.samples) for e in manifest.shards] == [
        ("train-000000.tar", "train", 7),
        ("val-000000.tar", "val", 7),
    ]


@given(st.lists(st.integers(1, 50_000), min_size=1), st.integers(11_000, 100_000), st.integers(0, 5))
def test_parts_keep_the_limits_and_the_order(sizes: list[int], shard_size: int, samples: int) -> None:
    parts = list(_parts(sizes, shard_size, samples))
    assert [i for part in parts for i in range(len(sizes))[part]] == list(range(len(sizes)))
    for part in parts:
        held = sizes[part]
        assert held
        assert not samples or len(held) <= samples
        assert len(held) == 1 or sum(held) + 10_240 <= shard_size
    for part, following in itertools.pairwise(parts):
        full = samples and len(sizes[part]) == samples
        assert full or sum(sizes[part]) + sizes[following.start] + 10_240 > shard_size


def test_shards_are_no_larger_than_asked_for(tmp_path: Path) -> None:
    pack(write_tree(tmp_path / "tree", count=16), tmp_path / "out", ENDINGS, shard_size=40_000)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert len(sizes) > 2
    assert max(sizes) <= 40_000
    assert min(sizes[:-1]) > 25_000


@given(st.lists(st.text("ab._/", min_size=1), unique=True))
def test_keys_are_different_and_have_no_dots(names: list[str]) -> None:
    keys = _keys([f"c/{name}.x" for name in names])
    assert len(set(keys)) == len(names)
    assert not any("." in key.rpartition("/")[2] for key in keys)


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = write_tree(tmp_path / "tree", count=2)
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match=r"there exists; packing never overwrites"):
        pack(tree, tmp_path / "there", ENDINGS)
    with pytest.raises(UserError, match=r"out lies in .*tree, where it would be taken for a class"):
        pack(tree, tree / "out", ENDINGS)
    with pytest.raises(UserError, match=r"shards of 0 bytes and 0 samples cannot be made"):
        pack(tree, tmp_path / "out", ENDINGS, shard_size=0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unireplknet.data.shards.packing._add", full)
    with pytest.raises(UserError, match=r"tree cannot be packed into .*out: .*No space left"):
        pack(tree, tmp_path / "out", ENDINGS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there", "tree"]
    assert not list((tmp_path / "there").glob(MANIFEST))
