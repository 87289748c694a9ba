import math
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from unireplknet.data.dataset import Draw, MapDataset
from unireplknet.data.sources.modelnet import load_modelnet
from unireplknet.data.sources.scanobjectnn import CLASSES, load_scanobjectnn
from unireplknet.data.split import Split
from unireplknet.errors import UserError
from unireplknet.modalities.points import (
    PointsAugment,
    PointsInput,
    cameras,
    depth_maps,
    farthest_points,
    random_rotation,
    to_unit_sphere,
    turn,
)

CLOUD = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
INPUTS = PointsInput(surface=500)
AROUND = ((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (270.0, 0.0))


def pcd(data: str, body: bytes, fields: str = "x y z", extra: str = "") -> bytes:
    names = fields.split()
    header = f"# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE {'4 ' * len(names)}\nTYPE {'F ' * len(names)}\n"
    return f"{header}{extra}WIDTH 50\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 50\nDATA {data}\n".encode() + body


def as_text(cloud: np.ndarray, separator: str = " ", columns: int = 3) -> str:
    rows = np.concatenate([cloud, np.ones((len(cloud), columns - 3))], 1)
    return "".join(separator.join(f"{v:.9g}" for v in row) + "\n" for row in rows)


def padded() -> bytes:
    """Colour, x, a gap of three numbers, y, z."""
    rows = np.full((50, 7), 9.0, np.float32)
    rows[:, [1, 5, 6]] = CLOUD
    return rows.astype("<f4").tobytes()


FILES = {
    "a.npy": lambda p: np.save(p, CLOUD),
    "normals.npy": lambda p: np.save(p, np.concatenate([CLOUD, CLOUD], 1).astype(np.float64)),
    "a.txt": lambda p: p.write_text(as_text(CLOUD, ",", 6)),
    "a.xyz": lambda p: p.write_text(as_text(CLOUD)),
    "a.ply": lambda p: trimesh.PointCloud(CLOUD).export(p),
    "A.OBJ": lambda p: p.write_text("# points\n" + "".join(f"v {line}\n" for line in as_text(CLOUD).splitlines())),
    "a.off": lambda p: p.write_text("OFF\n50 0 0\n" + as_text(CLOUD)),
    "ascii.pcd": lambda p: p.write_bytes(pcd("ascii", as_text(CLOUD).encode())),
    "binary.pcd": lambda p: p.write_bytes(pcd("binary", CLOUD.astype("<f4").tobytes())),
    "padded.pcd": lambda p: p.write_bytes(pcd("binary", padded(), "rgb x _ y z", "COUNT 1 1 3 1 1\n")),
    "reordered.pcd": lambda p: p.write_bytes(pcd("ascii", as_text(CLOUD[:, [2, 0, 1]], " ", 4).encode(), "z x y i")),
}


@pytest.mark.parametrize("name", FILES)
def test_points_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    found = INPUTS.read(tmp_path / name)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, CLOUD, rtol=1e-6)


@pytest.mark.parametrize("name", ["a.obj", "a.off", "a.ply", "a.stl", "ascii.stl"])
def test_meshes_are_sampled_on_their_surface_and_always_alike(tmp_path: Path, name: str) -> None:
    box = trimesh.creation.box(extents=(2, 4, 6))
    box.export(tmp_path / name, file_type="stl_ascii" if name == "ascii.stl" else None)
    found = INPUTS.read(tmp_path / name)
    assert found.shape == (500, 3)
    off = (found.abs() - torch.tensor([1.0, 2.0, 3.0])).abs()
    assert (off.min(1).values < 1e-5).all()
    share = (off[:, 0] < 1e-5).double().mean()  # the two sides of 4 x 6 among 88
    assert abs(share - 48 / 88) < 0.1
    assert torch.equal(found, INPUTS.read(tmp_path / name))
    (tmp_path / f"other-{name}").write_bytes((tmp_path / name).read_bytes())
    assert not torch.equal(found, INPUTS.read(tmp_path / f"other-{name}"))


def test_a_mesh_file_of_several_objects_with_a_missing_material_is_one_cloud(tmp_path: Path) -> None:
    parts = "mtllib missing.mtl\no one\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl red\nf 1 2 3\n"
    parts += "o two\nv 0 0 5\nv 1 0 5\nv 0 1 5\nusemtl blue\nf 4 5 6\n"
    (tmp_path / "a.obj").write_text(parts)
    assert set(INPUTS.read(tmp_path / "a.obj")[:, 2].tolist()) == {0.0, 5.0}


def test_points_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    holes = CLOUD.copy()
    holes[::5] = np.nan
    np.save(tmp_path / "a.npy", holes)
    assert len(INPUTS.read(tmp_path / "a.npy")) == 40


BAD = {
    "none.npy": (lambda p: np.save(p, np.empty((0, 3))), "it has no points"),
    "nan.npy": (lambda p: np.save(p, np.full((4, 3), np.nan)), "it has no points"),
    "flat.npy": (lambda p: np.save(p, np.zeros((4, 2))), r"its shape is \(4, 2\); expected \(points, 3 or more\)"),
    "pickled.npy": (lambda p: np.save(p, np.array([{}], object), allow_pickle=True), "allow_pickle=False"),
    "cut.npy": (lambda p: p.write_bytes(b"\x93NUMPY"), "EOF: reading magic string"),
    "empty.obj": (lambda p: p.write_text("# nothing\n"), "it has no points"),
    "empty.txt": (lambda p: p.write_text("# nothing\n"), "it has no points"),
    "empty.ply": (lambda p: p.write_bytes(b""), "it is not a readable .ply file: Not a ply file!"),
    "noise.obj": (lambda p: p.write_bytes(bytes(range(256))), "it has no points"),
    "line.obj": (lambda p: p.write_text("v 0 0 0\nv 1 0 0\nf 1 2 1\n"), "no area"),
    "words.txt": (lambda p: p.write_text("one two three\n"), "could not convert"),
    "noheader.pcd": (lambda p: p.write_text("1 2 3\n"), "its header has no DATA line"),
    "packed.pcd": (lambda p: p.write_bytes(pcd("binary_compressed", b"")), "save it as binary or ascii"),
    "cut.pcd": (lambda p: p.write_bytes(pcd("binary", b"123")), "it is not a whole PCD file"),
    "nox.pcd": (lambda p: p.write_bytes(pcd("ascii", b"", "a y z")), "it is not a whole PCD file: 'x' is not in list"),
    "new.las": (lambda p: p.write_text(""), "files ending in .las are not known; there are .obj"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_with_the_reason(tmp_path: Path, name: str) -> None:
    write, reason = BAD[name]
    write(tmp_path / name)
    data = MapDataset(Split([tmp_path / name], np.zeros(1, np.int64)), INPUTS.read, INPUTS.to_map)
    sample = data[Draw(0, 0)]
    assert sample.map is None
    assert sample.problem.startswith(f"{tmp_path / name}: ")
    with pytest.raises(Exception, match=reason):
        INPUTS.read(tmp_path / name)


def naive_depth(cloud: np.ndarray, azimuth: float, elevation: float, size: int, splat: int) -> tuple[np.ndarray, float]:
    """Point by point in float64, and how near the closest point comes to the edge of a pixel, in pixels."""
    a, e = math.radians(azimuth), math.radians(elevation)
    pixels, margin, inner = np.zeros((size, size)), math.inf, size - 2 * splat
    for x, y, z in cloud.astype(np.float64):
        forward = x * math.cos(a) + y * math.sin(a)  # in the ground plane, towards the viewer
        right = y * math.cos(a) - x * math.sin(a)
        up = z * math.cos(e) - forward * math.sin(e)
        towards = forward * math.cos(e) + z * math.sin(e)
        if max(abs(right), abs(up), abs(towards)) > 1:
            continue
        column, row = (right + 1) / 2 * inner, (1 - up) / 2 * inner
        margin = min(margin, *(abs(v - round(v)) for v in (column, row)))
        column, row = splat + min(int(column), inner - 1), splat + min(int(row), inner - 1)
        for i in range(row - splat, row + splat + 1):
            for j in range(column - splat, column + splat + 1):
                pixels[i, j] = max(pixels[i, j], (2 + towards) / 3)
    return pixels, margin


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.floats(-360, 360), st.floats(-90, 90)),
    st.integers(5, 20),
    st.integers(0, 2),
    st.sampled_from([0.4, 1.3]),
)
def test_depth_maps_are_those_of_a_loop_over_points(
    seed: int, direction: tuple[float, float], size: int, splat: int, reach: float
) -> None:
    cloud = np.random.default_rng(seed).uniform(-reach, reach, (40, 3)).astype(np.float32)
    expected, margin = naive_depth(cloud, *direction, size, splat)
    found = depth_maps(torch.from_numpy(cloud), cameras((direction,)), size, splat)
    if margin > 1e-4:  # otherwise float32 may put a point into the next pixel
        np.testing.assert_allclose(found[0], expected, atol=2e-6)


def test_a_point_is_where_the_direction_says() -> None:
    """Seen from +x: y points right, z up; the near side is the brighter one. From above, the front is at the bottom."""
    front, side, top = depth_maps(torch.tensor([[0.9, 0.5, 0.5]]), cameras(((0, 0), (90, 0), (0, 90))), 4)
    assert front.nonzero().tolist() == [[1, 3]]
    assert side.nonzero().tolist() == [[1, 0]]
    assert top.nonzero().tolist() == [[3, 3]]
    torch.testing.assert_close(front[1, 3], torch.tensor(2.9 / 3))
    torch.testing.assert_close(side[1, 0], torch.tensor(2.5 / 3))


@given(st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_turning_the_cloud_by_right_angles_exchanges_the_views_around_it(quarters: int, seed: int) -> None:
    cloud = to_unit_sphere(torch.from_numpy(np.random.default_rng(seed).normal(size=(60, 3))).float())
    views = cameras(AROUND)
    turned = cloud @ turn(quarters * math.pi / 2).T
    # The view at azimuth a of the turned cloud is that at a - 90 degrees a quarter of the cloud.
    expected = depth_maps(cloud, views, 9).roll(quarters, 0)
    close = ((depth_maps(turned, views, 9) - expected).abs() < 1e-5).double().mean()
    assert close > 0.99  # a point on the edge of a pixel may change sides


@pytest.mark.parametrize("arc", [360, 60])
def test_the_views_when_testing_are_maps_of_the_turned_cloud(arc: float) -> None:
    inputs = PointsInput(points=0, size=12, rotations=3, arc=arc, directions=AROUND)
    cloud = torch.from_numpy(CLOUD)
    views = inputs.to_views(cloud)
    assert views.shape == (3, 4, 12, 12)
    assert torch.equal(views[1], inputs.to_map(cloud))
    for view, turned in ((0, -arc / 3), (2, arc / 3)):
        directions = tuple((azimuth - turned, elevation) for azimuth, elevation in AROUND)
        again = PointsInput(points=0, size=12, directions=directions).to_map(cloud)
        assert ((views[view] - again).abs() < 1e-5).double().mean() > 0.99


@pytest.mark.parametrize(("up", "axis"), [("x", 0), ("y", 1), ("z", 2)])
def test_the_axis_that_points_up_is_at_the_top_of_the_map(up: str, axis: int) -> None:
    cloud = torch.zeros(3, 3)
    cloud[0, axis] = 1.0  # one point high up, two at the bottom
    pixels = PointsInput(points=0, up=up, directions=((30.0, 0.0),), size=8, splat=0).to_map(cloud)[0]
    assert pixels[0].any()
    assert (pixels > 0).sum() == 2
    triad = PointsInput(up=up, points=0).prepare(torch.cat([torch.eye(3), -torch.eye(3)]))[:3]
    assert torch.linalg.det(triad).item() == pytest.approx(1)  # turned, not mirrored


def naive_farthest(cloud: np.ndarray, count: int) -> list[int]:
    centre = cloud.mean(0)
    chosen = [max(range(len(cloud)), key=lambda i: ((cloud[i] - centre) ** 2).sum())]
    while len(chosen) < count:
        nearest = [min(((cloud[i] - cloud[j]) ** 2).sum() for j in chosen) for i in range(len(cloud))]
        chosen.append(int(np.argmax(nearest)))
    return chosen


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_farthest_points_are_those_of_the_definition(seed: int, count: int) -> None:
    cloud = np.random.default_rng(seed).normal(size=(30, 3))
    assert farthest_points(torch.from_numpy(cloud), count).tolist() == naive_farthest(cloud, count)


def test_clouds_are_thinned_to_the_wanted_number_only_if_larger() -> None:
    cloud = torch.from_numpy(CLOUD)
    for sampling in ("farthest", "random"):
        assert len(PointsInput(points=20, sampling=sampling).prepare(cloud)) == 20
        assert len(PointsInput(points=60, sampling=sampling).prepare(cloud)) == 50
    assert len(PointsInput(points=0).prepare(cloud)) == 50


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1000))
def test_size_and_place_do_not_matter(seed: int, scale: float) -> None:
    cloud = torch.from_numpy(np.random.default_rng(seed).normal(size=(20, 3)))
    there = to_unit_sphere(cloud * scale + 7)
    torch.testing.assert_close(there, to_unit_sphere(cloud))
    torch.testing.assert_close(there.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    assert there.norm(dim=1).max().item() == pytest.approx(1)


def test_a_single_point_is_the_middle() -> None:
    assert to_unit_sphere(torch.ones(1, 3)).tolist() == [[0, 0, 0]]
    assert INPUTS.to_map(torch.ones(1, 3)).any()


def prepared() -> torch.Tensor:
    return to_unit_sphere(torch.from_numpy(CLOUD))


def distances(cloud: torch.Tensor) -> torch.Tensor:
    return torch.cdist(cloud.double(), cloud.double(), compute_mode="donot_use_mm_for_euclid_dist")


def test_no_augmentation_is_evaluation() -> None:
    inputs = PointsInput(points=0, size=20)
    assert torch.equal(PointsAugment().bind(inputs)(torch.from_numpy(CLOUD)), inputs.to_map(torch.from_numpy(CLOUD)))


@pytest.mark.parametrize("augment", [PointsAugment(turn=180), PointsAugment(tumble=True), PointsAugment(tilt=20)])
def test_rotations_keep_distances_and_handedness(augment: PointsAugment) -> None:
    cloud = prepared()
    changed = augment.change(cloud)
    torch.testing.assert_close(distances(changed), distances(cloud), atol=1e-5, rtol=0)
    rotation = torch.linalg.lstsq(cloud.double(), changed.double()).solution
    assert torch.linalg.det(rotation).item() == pytest.approx(1, abs=1e-5)
    assert (changed - cloud).abs().max() > 1e-3


def test_turns_keep_height_and_stay_within_their_angle() -> None:
    cloud = prepared()
    for _ in range(20):
        changed = PointsAugment(turn=30).change(cloud)
        torch.testing.assert_close(changed[:, 2], cloud[:, 2])
        angles = torch.atan2(changed[:, 1], changed[:, 0]) - torch.atan2(cloud[:, 1], cloud[:, 0])
        assert torch.cos(angles).min() > math.cos(math.radians(30)) - 1e-5


def test_the_vertical_tilts_by_no_more_than_its_angle() -> None:
    cloud = torch.eye(3)
    lowest = [PointsAugment(tilt=25).change(cloud)[2, 2].item() for _ in range(60)]
    assert math.cos(math.radians(25)) - 1e-6 <= min(lowest) < math.cos(math.radians(15))


def test_random_rotations_are_uniform() -> None:
    """The image of any unit vector is uniform on the sphere: its mean is 0, its second moments are 1/3."""
    images = torch.stack([random_rotation() for _ in range(4000)])
    torch.testing.assert_close(images.mean(0), torch.zeros(3, 3), atol=0.04, rtol=0)
    torch.testing.assert_close(images.square().mean(0), torch.full((3, 3), 1 / 3), atol=0.03, rtol=0)


def test_mirroring_turns_handedness_over_and_keeps_height() -> None:
    changed = PointsAugment(mirror=1).change(prepared())
    assert torch.linalg.det(torch.linalg.lstsq(prepared(), changed).solution) < 0
    assert torch.equal(changed[:, 2], prepared()[:, 2])


def test_scaling_changes_proportions_and_stays_in_the_sphere() -> None:
    changed = PointsAugment(scale=(0.5, 2.0)).change(prepared())
    assert changed.norm(dim=1).max().item() == pytest.approx(1)
    factors = (changed.max(0).values - changed.min(0).values) / (prepared().max(0).values - prepared().min(0).values)
    assert factors.max() / factors.min() > 1.05


def test_jitter_translation_and_dropping() -> None:
    cloud = prepared()
    moved = PointsAugment(translate=0.3).change(cloud) - cloud
    torch.testing.assert_close(moved, moved[:1].expand_as(moved), atol=1e-6, rtol=0)
    assert 0 < moved.abs().max() <= 0.3
    noise = PointsAugment(jitter=0.05).change(cloud.repeat(40, 1)) - cloud.repeat(40, 1)
    assert noise.std().item() == pytest.approx(0.05, rel=0.05)
    kept = PointsAugment(keep=(0.2, 0.2)).change(cloud)
    assert len(kept) == 10
    assert len(torch.cat([kept, cloud]).unique(dim=0)) == 50


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"directions": ()}, "input.directions is empty"),
        ({"rotations": 0}, "input.rotations is 0; expected at least 1"),
        ({"size": 4, "splat": 2}, "input.splat is 2; expected less than half of input.size 4"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PointsInput(**values)


def test_modelnet_as_meshes(tmp_path: Path) -> None:
    for name in ("chair", "night_stand"):
        for split, count in (("train", 3), ("test", 1)):
            (tmp_path / name / split).mkdir(parents=True)
            for i in range(count):
                trimesh.creation.box().export(tmp_path / name / split / f"{name}_{split}_{i:04}.off")
    (tmp_path / "chair" / "train" / ".DS_Store").write_bytes(b"")
    data = load_modelnet(tmp_path, INPUTS.extensions)
    assert data.classes == ("chair", "night_stand")
    assert data.splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert {p.parent.name for p in data.splits["test"].items} == {"test"}
    assert INPUTS.read(data.splits["test"].items[1]).shape == (500, 3)


def test_modelnet_resampled(tmp_path: Path) -> None:
    lists = {"train": ["chair_0001", "night_stand_0002"], "test": ["night_stand_0001"]}
    for split, shapes in lists.items():
        (tmp_path / f"modelnet40_{split}.txt").write_text("\n".join(shapes) + "\n")
        (tmp_path / f"modelnet10_{split}.txt").write_text("chair_0001\n")
        for shape in shapes:
            (tmp_path / shape[:-5]).mkdir(exist_ok=True)
            (tmp_path / shape[:-5] / f"{shape}.txt").write_text(as_text(CLOUD, ",", 6))
    data = load_modelnet(tmp_path, INPUTS.extensions)
    assert data.classes == ("chair", "night_stand")
    assert {name: split.labels.tolist() for name, split in data.splits.items()} == {"train": [0, 1], "test": [1]}
    np.testing.assert_allclose(INPUTS.read(data.splits["train"].items[1]), CLOUD, rtol=1e-6)


def test_folders_that_are_not_modelnet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not ModelNet: expected .*CLASS/train"):
        load_modelnet(tmp_path, INPUTS.extensions)
    for file in ("chair/train/a.off", "chair/test/a.off", "sofa/test/a.off"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    with pytest.raises(UserError, match=r"class 'sofa' in .* \(test\) is missing from .* \(train\)"):
        load_modelnet(tmp_path, INPUTS.extensions)


@pytest.mark.parametrize("ending", ["", "_augmentedrot_scale75"])
def test_scanobjectnn(tmp_path: Path, ending: str) -> None:
    clouds = np.stack([CLOUD, CLOUD[::-1], -CLOUD])
    for name, labels in (("training", [3, 14, 0]), ("test", [1])):
        with h5py.File(tmp_path / f"{name}_objectdataset{ending}.h5", "w") as file:
            file["data"] = clouds[: len(labels)]
            file["label"] = np.array(labels, np.uint8)
    data = load_scanobjectnn(tmp_path / f"training_objectdataset{ending}.h5" if ending else tmp_path)
    assert data.classes == CLASSES
    assert data.splits["train"].labels.tolist() == [3, 14, 0]
    assert data.splits["test"].labels.tolist() == [1]
    np.testing.assert_array_equal(INPUTS.read(data.splits["train"].items[2]), -CLOUD)
    assert (
        data.splits["train"].name(2).endswith(f"training_objectdataset{ending}.h5{'/'}2".replace("/", str(Path("/"))))
    )
    assert len({split.fingerprint() for split in data.splits.values()}) == 2


def test_scanobjectnn_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training_objectdataset.h5 is missing"):
        load_scanobjectnn(tmp_path)
    (tmp_path / "training_objectdataset.h5").write_bytes(struct.pack("4i", 1, 2, 3, 4))
    with pytest.raises(UserError, match="has no readable 'label'"):
        load_scanobjectnn(tmp_path)
    with h5py.File(tmp_path / "training_objectdataset.h5", "w") as file:
        file["label"] = np.array([40])
    with pytest.raises(UserError, match="has other labels than 0 to 14"):
        load_scanobjectnn(tmp_path)


def test_panels_name_the_direction_of_each_view() -> None:
    inputs = PointsInput(points=0, size=16, directions=((0.0, 0.0), (0.0, 90.0)))
    sample = inputs.to_map(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]]))
    shown = inputs.panels(sample)
    assert [panel.title for panel in shown] == ["azimuth 0°, elevation 0°", "azimuth 0°, elevation 90°"]
    assert all(np.array_equal(panel.pixels, view) for panel, view in zip(shown, sample.numpy(), strict=True))
