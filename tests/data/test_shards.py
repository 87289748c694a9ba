import functools
import gzip
import http.server
import io
import json
import pickle
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.runs import COLORS, write_tree
from unireplknet.data.dataset import Draw, MapDataset
from unireplknet.data.sampler import EpochSampler
from unireplknet.data.shards import reading as shards
from unireplknet.data.shards.manifest import MANIFEST
from unireplknet.data.shards.packing import pack
from unireplknet.data.shards.reading import load_shards
from unireplknet.data.shards.samples import ShardSample, ShardSamples
from unireplknet.data.sources.folder import load_folder
from unireplknet.data.split import LabeledData
from unireplknet.errors import UserError
from unireplknet.modalities.image import ImageInput

ENDINGS = ImageInput.extensions


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(shards.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Uneven shards of 8, 8 and 3 samples; one is no picture."""
    pack(write_tree(tmp_path / "tree", count=6), tmp_path / "packed", ENDINGS, samples=8)
    return tmp_path / "packed"


def contents(data: LabeledData, split: str = "all") -> list[tuple[str, bytes]]:
    samples = data.splits[split]
    return sorted(
        (data.classes[label], item.open().read()) for item, label in zip(samples.items, samples.labels, strict=True)
    )


def files(tree: Path) -> list[tuple[str, bytes]]:
    return sorted((path.parent.name, path.read_bytes()) for path in tree.rglob("*.png"))


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 9), COLORS[colour]).save(file, "png")
    return file.getvalue()


def test_shards_hold_the_samples_of_the_folder(packed: Path, tmp_path: Path) -> None:
    data = load_shards(packed, ENDINGS)
    assert data.classes == ("blue", "green", "red")
    assert contents(data) == files(tmp_path / "tree")


def test_maps_are_those_of_the_files(packed: Path, tmp_path: Path) -> None:
    inputs = ImageInput(size=8)
    split, tree = load_shards(packed, ENDINGS).splits["all"], load_folder(tmp_path / "tree", ENDINGS).splits["all"]
    of_files = {
        "/".join(path.parts[-2:]): MapDataset(tree, inputs.read, inputs.to_map)[Draw(0, i)]
        for i, path in enumerate(tree.items)
    }
    for i, item in enumerate(split.items):
        sample, expected = MapDataset(split, inputs.read, inputs.to_map)[Draw(0, i)], of_files[item.name]
        assert sample.label == expected.label
        if expected.map is None:
            assert sample.problem.startswith(f"{item.shard}:red/broken.png: cannot identify image file 'broken.png'")
        else:
            assert sample.map is not None
            assert torch.equal(sample.map, expected.map)


@pytest.mark.parametrize("where", ["", "*.tar", "all-{000000..000002}.tar", MANIFEST, "list.txt"])
def test_ways_to_name_shards(where: str, packed: Path, tmp_path: Path) -> None:
    (packed / "list.txt").write_text(f"# three\nall-00000{{0,1}}.tar\n\n{packed / 'all-000002.tar'}\n")
    data = load_shards(packed / where, ENDINGS)
    assert data.classes == ("blue", "green", "red"), "the manifest beside them is used"
    assert contents(data) == files(tmp_path / "tree")


def test_shards_that_webdataset_wrote_need_no_manifest(tmp_path: Path) -> None:
    expected: dict[str, list[tuple[str, bytes]]] = {}
    for split in ("train", "validation"):
        pattern = (tmp_path / f"flowers-{split}-%03d.tar").as_posix()
        with webdataset.ShardWriter(f"file:{pattern}", maxcount=4, verbose=0) as writer:
            for i in range(10):
                content = picture(list(COLORS)[i % 3])
                note = {"json": {"i": i}, "seg.png": b"not this one"}
                writer.write({"__key__": f"{i:04}", "png": content, "cls": i % 3, **note})
                expected.setdefault(split, []).append((str(i % 3), content))
    (tmp_path / "notes.tar").unlink(missing_ok=True)
    data = load_shards(tmp_path, ENDINGS)
    assert data.classes == ("0", "1", "2")
    assert contents(data, "train") == sorted(expected["train"])
    assert contents(data, "val") == sorted(expected["validation"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            requests.append(self.path)

    requests: list[str] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path)) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()
        thread.join()


def test_shards_behind_urls_are_copied_once(packed: Path, server: str, tmp_path: Path) -> None:
    expected = files(tmp_path / "tree")
    assert contents(load_shards(f"{server}/packed/{MANIFEST}", ENDINGS)) == expected
    (tmp_path / "urls.txt").write_text(f"{server}/packed/all-{{000000..000002}}.tar?as=it is\n")
    unnamed = load_shards(tmp_path / "urls.txt", ENDINGS)
    assert unnamed.classes == ("0", "1", "2")
    assert [content for _, content in contents(unnamed)] == [content for _, content in expected]
    for shard in packed.glob("*.tar"):
        shard.unlink()
    # The name as the command line passes it on, with the slashes of a path.
    assert contents(load_shards(Path(f"{server}/packed/{MANIFEST}"), ENDINGS)) == expected
    with pytest.raises(UserError, match=r"packed/other.tar cannot be fetched to .*cache"):
        load_shards(f"{server}/packed/other.tar", ENDINGS)
    with pytest.raises(UserError, match=r"other/manifest.json cannot be read"):
        load_shards(f"{server}/other/{MANIFEST}", ENDINGS)
    with pytest.raises(UserError, match=r"nowhere://x.tar: Protocol not known"):
        load_shards("nowhere://x.tar", ENDINGS)


def test_a_copy_with_a_wrong_checksum_is_not_kept(packed: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in packed.iterdir():
        memory.pipe(f"/bad/{path.name}", path.read_bytes())
    memory.pipe("/bad/all-000001.tar", (packed / "all-000001.tar").read_bytes().replace(b"PNG", b"PNK", 1))
    with pytest.raises(UserError, match=r"memory://bad/all-000001.tar is not what manifest.json says: sha256 is"):
        load_shards("memory://bad/manifest.json", ENDINGS)
    memory.pipe("/bad/all-000001.tar", (packed / "all-000001.tar").read_bytes())
    assert contents(load_shards("memory://bad/manifest.json", ENDINGS)) == files(tmp_path / "tree")


def test_shards_are_read_once_and_again_when_they_change(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_shards(packed, ENDINGS).splits["all"]
    read: list[Path] = []
    real = shards.index_shard
    monkeypatch.setattr(shards, "index_shard", lambda path, *args: read.append(path) or real(path, *args))
    again = load_shards(packed, ENDINGS).splits["all"]
    assert not read
    assert again.fingerprint() == first.fingerprint()
    assert list(again.items) == list(first.items)
    shard = packed / "all-000002.tar"
    shard.write_bytes(shard.read_bytes().replace(b"PNG", b"PNK", 1))
    with pytest.raises(UserError, match=r"all-000002.tar is not what manifest.json says: sha256"):
        load_shards(packed, ENDINGS)
    assert read == [shard]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code was run",)


def test_nothing_is_unpickled(packed: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = contents(load_shards(packed, ENDINGS))
    evil = np.array([Evil()], dtype=object)
    for file in cache.glob("indices/*.npz"):
        with file.open("wb") as out:
            np.savez(out, names=evil, offsets=evil, sizes=evil, labels=evil, sha256=evil)
    assert contents(load_shards(packed, ENDINGS)) == expected
    write_tar(tmp_path / "x.tar", {"a.png": b"", "a.cls": pickle.dumps(Evil()), "a.pkl": pickle.dumps(Evil())})
    with pytest.raises(UserError, match=r"a.cls holds .*; expected the class as a number"):
        load_shards(tmp_path / "x.tar", ENDINGS)
    assert "code was run" not in capsys.readouterr().out


def test_every_kind_of_damage_is_named(packed: Path, tmp_path: Path) -> None:
    manifest, shard = packed / MANIFEST, packed / "all-000001.tar"
    whole, listed = shard.read_bytes(), json.loads(manifest.read_text())

    def complaint(content: bytes | None = None, **changes: object) -> str:
        shard.unlink(missing_ok=True)
        if content is not None:
            shard.write_bytes(content)
        manifest.write_text(json.dumps(listed | changes))
        with pytest.raises(UserError) as error:
            load_shards(packed, ENDINGS)
        assert "\n" not in str(error.value)
        return str(error.value)

    def with_entry(**changes: object) -> list[dict[str, object]]:
        return [entry | changes if entry["file"] == shard.name else entry for entry in listed["shards"]]

    wrong = f"{shard} is not what manifest.json says: "
    assert complaint(whole[:-5000]).startswith(f"{wrong}bytes is {len(whole) - 5000}, expected {len(whole)}; copy it")
    assert complaint(whole.replace(b"PNG", b"PNK", 1)).startswith(f"{wrong}sha256 is ")
    assert complaint(whole, shards=with_entry(samples=9)).startswith(f"{wrong}samples is 8, expected 9")
    assert complaint() == f"{shard} is missing; manifest.json lists it"
    assert complaint(whole, shards=listed["shards"][:1]).startswith(f"{shard} is not in {manifest}; move it away")
    assert complaint(whole, shards=with_entry(split="dev")) == (
        f"{manifest} has a split 'dev'; expected train, val, test or all"
    )
    assert complaint(whole, format="2").startswith(f"{manifest} has the format '2'; expected 'unireplknet shards 1'")
    assert complaint(whole, shards=[{"file": shard.name}]).startswith(f"{manifest} is not a manifest of `unireplknet")
    assert complaint(whole, classes=["a", "b"]).endswith("has a sample of class 2, there are 2")
    manifest.write_text("not JSON")
    with pytest.raises(UserError, match=r"manifest.json is not a manifest of `unireplknet pack`"):
        load_shards(packed, ENDINGS)


def test_a_shard_without_manifest_that_is_cut_off(packed: Path) -> None:
    (packed / MANIFEST).unlink()
    shard = packed / "all-000001.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        between = tar.getmembers()[2].offset
    for content in (whole[:between], whole[: between + 100], whole[: between + 600], whole[:between] + b"x" * 1024):
        shard.write_bytes(content)
        with pytest.raises(UserError, match=r"all-000001.tar is (cut off or damaged at byte|not a whole, uncompr)"):
            load_shards(packed, ENDINGS)
    shard.write_bytes(gzip.compress(whole))
    with pytest.raises(UserError, match=r"all-000001.tar is not a whole, uncompressed tar file"):
        load_shards(packed, ENDINGS)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b"", "a.txt": b"3"}, r"x.tar: sample 'a' has no .cls file"),
        ({"a.wav": b"", "a.cls": b"3"}, r"x.tar: sample 'a' has .wav .cls; expected one file ending in .bmp"),
        ({"a.png": b"", "a.jpg": b"", "a.cls": b"3"}, r"sample 'a' has .png .jpg .cls; expected one file"),
        ({"a.png": b"", "a.cls": b"red"}, r"x.tar: a.cls holds b'red'; expected the class as a number"),
        ({"a.png": b"", "a.cls": b"1", "a.PNG": b""}, r"x.tar: there are two samples 'a', one after the other"),
        ({"a.png": b"", "a.cls": b"0"}, r"have 1 class\(es\); at least 2 are needed"),
    ],
)
def test_samples_that_are_none(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_shards(write_tar(tmp_path / "x.tar", members), ENDINGS)


def test_places_that_are_no_shards(tmp_path: Path) -> None:
    for name in ("train-0.tar", "other.tar"):
        write_tar(tmp_path / name, {"a.png": b"", "a.cls": b"1"})
    (tmp_path / "empty").mkdir()
    for place, message in [
        ("nowhere", r"nowhere does not exist; expected a folder, shards, a manifest"),
        ("train-{0..1}.tar", r"train-1.tar does not exist"),
        ("train-{0..1.tar", r"Unbalanced braces"),
        ("empty", r"empty has no shards; expected \*.tar"),
        ("", r"the name of .*other.tar does not say train, val or test, as others do"),
    ]:
        with pytest.raises(UserError, match=message):
            load_shards(tmp_path / place, ENDINGS)
    shutil.move(tmp_path / "train-0.tar", tmp_path / "val-0.tar")
    with pytest.raises(UserError, match=r"has no shards to train with, only val"):
        load_shards(tmp_path / "val-0.tar", ENDINGS)


def test_a_sample_whose_shard_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    assert ShardSample(tmp_path / "a", "x.png", 2, 3).open().read() == b"234"
    file, path = ShardSample(tmp_path / "a", "deep/x.png", 2, 3).open(), Path("deep/x.png")
    assert (file.name, file.suffix, file.parent.name) == (path.name, path.suffix, path.parent.name)
    assert (file.read_bytes(), file.read_text(), file.read()) == (b"234", "234", b"234")
    with pytest.raises(OSError, match=r"a is 4 bytes too short"):
        ShardSample(tmp_path / "a", "x.png", 8, 6).open()


def test_members_are_a_sequence_that_travels(packed: Path) -> None:
    members = load_shards(packed, ENDINGS).splits["all"].items
    assert isinstance(members, ShardSamples)
    assert list(pickle.loads(pickle.dumps(members))) == list(members)
    assert list(members[3:7]) == [members[i] for i in range(3, 7)] == list(members.take(np.arange(3, 7)))


@given(st.lists(st.integers(0, 6), min_size=1), st.integers(1, 4), st.integers(0, 3))
def test_a_window_reads_few_shards_at_a_time(lies_in: list[int], window: int, epoch: int) -> None:
    shards_of = np.array(lies_in)
    sampler = EpochSampler(len(shards_of), True, shards=shards_of, window=window)
    sampler.set_epoch(epoch)
    order = [draw.index for draw in sampler]
    assert sorted(order) == list(range(len(shards_of)))
    seen = shards_of[order].tolist()
    spans = {a: (seen.index(a), len(seen) - 1 - seen[::-1].index(a)) for a in set(seen)}
    for i in range(len(seen)):
        assert sum(first <= i <= last for first, last in spans.values()) <= window


def test_a_window_mixes_its_shards_and_changes_with_the_epoch() -> None:
    shards_of = np.repeat(np.arange(6), 20)
    sampler = EpochSampler(120, True, shards=shards_of, window=3)
    first = [draw.index for draw in sampler]
    assert len(set(shards_of[first[:10]].tolist())) > 1
    sampler.set_epoch(1)
    second = [draw.index for draw in sampler]
    assert set(shards_of[first[:60]]) != set(shards_of[second[:60]]) or first[:60] != second[:60]
