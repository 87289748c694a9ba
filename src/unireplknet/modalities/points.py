"""Point clouds and meshes -> depth maps from several directions, one channel each.

The papers say no more than B x P x 3 -> B x 3 x 224 x 224, a projection to three views without geometric priors
(journal version, section 3.3). That is the default here: a pixel holds how near the nearest point is, nothing is
learnt, and the network takes it as it takes an image. The authors' code has four views through a learnt projection.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unireplknet.data.hdf5 import read_array
from unireplknet.errors import UserError, missing_extra
from unireplknet.modalities.panels import Panel
from unireplknet.registry import Modality

MESHES = (".obj", ".off", ".ply", ".stl")
TABLES = (".txt", ".xyz")
H5 = ".h5"


UP_LAST = {"x": (1, 2, 0), "y": (2, 0, 1), "z": (0, 1, 2)}
"""Axes in the order in which the one that points up comes last, without mirroring."""


@dataclass
class PointsInput:
    """How a point cloud becomes a map.

    Args:
        surface: Points drawn from the surface of a mesh, in proportion to area.
        points: How many points of a cloud are used; 0 for all.
        sampling: How they are chosen: "farthest" point sampling spreads them evenly, "random" is quick.
        up: The axis that points up in the files.
        directions: Where each view looks from, as azimuth and elevation in degrees; every view is a channel.
        size: Height and width of the map in pixels.
        splat: Pixels by which a point reaches beyond its own one on each side, to close gaps.
        rotations: Turns about the vertical in which a sample is looked at when testing; the probabilities are averaged.
        arc: The part of a circle in degrees, centred on the cloud as it is, over which these turns are spread evenly.
    """

    surface: int = 8192
    points: int = 4096
    sampling: Literal["farthest", "random"] = "farthest"
    up: Literal["x", "y", "z"] = "z"
    directions: tuple[tuple[float, float], ...] = ((0.0, 0.0), (90.0, 0.0), (0.0, 90.0))
    size: int = 224
    splat: int = 1
    rotations: int = 1
    arc: float = 360.0

    extensions: ClassVar[tuple[str, ...]] = (*MESHES, ".npy", ".pcd", *TABLES)

    def __post_init__(self) -> None:
        if not self.directions:
            raise UserError("input.directions is empty; expected one azimuth and elevation or more")
        if self.rotations < 1:
            raise UserError(f"input.rotations is {self.rotations}; expected at least 1")
        if self.size <= 2 * self.splat:
            raise UserError(f"input.splat is {self.splat}; expected less than half of input.size {self.size}")

    @property
    def channels(self) -> int:
        """One for each direction."""
        return len(self.directions)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (channels, H, W) of the map."""
        return self.channels, self.size, self.size

    def read(self, item: Path) -> Tensor:
        """The points of a file, shape (N, 3), float32; those of a mesh are drawn from its surface.

        Raises:
            UserError: There are no points in it.
        """
        points = read_points(item, self.surface)
        points = points[np.isfinite(points).all(1)]
        if not len(points):
            raise UserError("it has no points")
        return torch.from_numpy(points.astype(np.float32))

    def prepare(self, cloud: Tensor) -> Tensor:
        """The wanted number of points, with z up, in the unit sphere."""
        if 0 < self.points < len(cloud):
            if self.sampling == "farthest":
                cloud = cloud[farthest_points(cloud, self.points)]
            else:
                cloud = cloud[torch.randperm(len(cloud))[: self.points]]
        return to_unit_sphere(cloud[:, UP_LAST[self.up]])

    def project(self, cloud: Tensor) -> Tensor:
        """The map of a prepared cloud."""
        return depth_maps(cloud, cameras(self.directions), self.size, self.splat)

    def to_map(self, cloud: Tensor) -> Tensor:
        """The map of a cloud for evaluation.

        Args:
            cloud: Points as read, shape (N, 3).

        Returns:
            Shape (channels, size, size); 0 where there is nothing, up to 1 for what is nearest to the viewer.
        """
        return self.project(self.prepare(cloud))

    def panels(self, sample: Tensor) -> list[Panel]:
        """The depth maps, each with the direction that it is seen from."""
        names = [f"azimuth {azimuth:g}°, elevation {elevation:g}°" for azimuth, elevation in self.directions]
        return [Panel(view.numpy(), name) for view, name in zip(sample, names, strict=True)]

    def to_views(self, cloud: Tensor) -> Tensor:
        """The maps of a cloud that is turned about the vertical, shape (rotations, channels, size, size)."""
        cloud = self.prepare(cloud)
        step = math.radians(self.arc) / self.rotations
        angles = (step * (i - (self.rotations - 1) / 2) for i in range(self.rotations))
        return torch.stack([self.project(cloud @ turn(angle).T) for angle in angles])


@dataclass
class PointsAugment:
    """Random changes to training clouds, in this order; the defaults change nothing.

    Args:
        keep: Smallest and largest part of the points that is kept.
        mirror: Probability of mirroring in a vertical plane.
        scale: Smallest and largest factor on each axis; the cloud is brought back into the unit sphere afterwards.
        tumble: Turn about any axis by any angle, all rotations being equally likely.
        turn: Largest angle in degrees of a turn about the vertical; 180 is any.
        tilt: Largest angle in degrees by which the vertical is tilted, in any direction.
        jitter: Standard deviation of a shift of every point; the sphere has radius 1.
        translate: Largest shift of the cloud along each axis. What leaves the map is cut off.
    """

    keep: tuple[float, float] = (1.0, 1.0)
    mirror: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    tumble: bool = False
    turn: float = 0.0
    tilt: float = 0.0
    jitter: float = 0.0
    translate: float = 0.0

    def bind(self, inputs: PointsInput) -> Callable[[Tensor], Tensor]:
        """The training counterpart of ``inputs.to_map``."""
        return partial(self._to_map, inputs)

    def _to_map(self, inputs: PointsInput, cloud: Tensor) -> Tensor:
        return inputs.project(self.change(inputs.prepare(cloud)))

    def change(self, cloud: Tensor) -> Tensor:
        """A changed copy of a prepared cloud, shape (N, 3)."""
        if self.keep != (1.0, 1.0):
            count = max(1, round(len(cloud) * uniform(*self.keep)))
            cloud = cloud[torch.randperm(len(cloud))[:count]]
        if self.mirror and uniform(0, 1) < self.mirror:
            cloud = cloud * torch.tensor([-1.0, 1.0, 1.0])
        if self.scale != (1.0, 1.0):
            cloud = to_unit_sphere(cloud * torch.empty(3).uniform_(*self.scale))
        if self.tumble:
            cloud = cloud @ random_rotation().T
        if self.turn:
            cloud = cloud @ turn(math.radians(uniform(-self.turn, self.turn))).T
        if self.tilt:
            about = turn(uniform(0, 2 * math.pi))
            cloud = cloud @ (about @ tip(math.radians(uniform(0, self.tilt))) @ about.T).T
        if self.jitter:
            cloud = cloud + self.jitter * torch.randn_like(cloud)
        if self.translate:
            cloud = cloud + torch.empty(3).uniform_(-self.translate, self.translate)
        return cloud


def uniform(low: float, high: float) -> float:
    """A number from torch's generator."""
    return torch.empty(()).uniform_(low, high).item()


def turn(angle: float) -> Tensor:
    """The rotation about z by ``angle`` radians, shape (3, 3)."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def tip(angle: float) -> Tensor:
    """The rotation about x by ``angle`` radians, shape (3, 3)."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def random_rotation() -> Tensor:
    """A rotation about any axis, all equally likely, shape (3, 3): from a random unit quaternion."""
    w, x, y, z = F.normalize(torch.randn(4), dim=0).tolist()
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def to_unit_sphere(cloud: Tensor) -> Tensor:
    """Move the mean of the points to 0 and scale the farthest one to distance 1."""
    cloud = cloud - cloud.mean(0)
    return cloud / cloud.norm(dim=1).max().clamp_min(1e-12)


def farthest_points(cloud: Tensor, count: int) -> Tensor:
    """Farthest point sampling: each next point is the one farthest from all that were taken.

    Args:
        cloud: Shape (N, 3).
        count: How many to take, at most N.

    Returns:
        Indices, shape (count,), in the order in which they are taken. The first is the one farthest from the mean, so
        that the same points are chosen in whatever order they come.
    """
    chosen = torch.empty(count, dtype=torch.int64)
    distances = torch.full((len(cloud),), torch.inf)
    current = (cloud - cloud.mean(0)).square().sum(1).argmax()
    for i in range(count):
        chosen[i] = current
        distances = torch.minimum(distances, (cloud - cloud[current]).square().sum(1))
        current = distances.argmax()
    return chosen


def cameras(directions: tuple[tuple[float, float], ...]) -> Tensor:
    """For each azimuth and elevation in degrees the unit vectors right, up and towards the viewer.

    Args:
        directions: Where the viewer is, seen from the middle: azimuth from the x axis towards y, elevation towards z.

    Returns:
        Shape (V, 3, 3), one vector a row.
    """
    a, e = torch.deg2rad(torch.tensor(directions, dtype=torch.float32)).T
    right = torch.stack([-a.sin(), a.cos(), torch.zeros_like(a)], 1)
    towards = torch.stack([e.cos() * a.cos(), e.cos() * a.sin(), e.sin()], 1)
    return torch.stack([right, torch.linalg.cross(towards, right), towards], 1)


def depth_maps(cloud: Tensor, views: Tensor, size: int, splat: int = 0) -> Tensor:
    """Orthographic depth maps of a cloud.

    Args:
        cloud: Points, shape (N, 3). Of interest is what lies between -1 and 1 on each axis of a view.
        views: Right, up and towards the viewer, shape (V, 3, 3).
        size: Pixels of a side; -1 to 1 takes the inner size - 2 * splat of them.
        splat: Pixels by which a point reaches beyond its own one on each side.

    Returns:
        Shape (V, size, size), float32. A pixel is 0 where no point falls, otherwise 1/3 for the far end (depth -1) to 1
        for the near end (depth 1) of the nearest of its points.
    """
    inner = size - 2 * splat
    right, up, towards = (cloud @ views.mT).unbind(2)  # (V, N) each
    inside = (torch.stack([right, up, towards]).abs() <= 1 + 1e-6).all(0)
    column = ((right + 1) / 2 * inner).long().clamp(0, inner - 1)
    row = ((1 - up) / 2 * inner).long().clamp(0, inner - 1)
    nearness = torch.where(inside, (2 + towards) / 3, 0.0)
    maps = torch.zeros(len(views), inner * inner).scatter_reduce_(1, row * inner + column, nearness, "amax")
    maps = F.pad(maps.view(-1, inner, inner), [splat] * 4)
    return F.max_pool2d(maps, 2 * splat + 1, 1, splat) if splat else maps


def read_points(path: Path, surface: int) -> np.ndarray:
    """The points of a file, shape (N, 3).

    Args:
        path: A file of a kind in :attr:`PointsInput.extensions`, or ``FILE.h5/INDEX``.
        surface: How many points to draw from the surface of a mesh. They are a function of the file and its name.

    Raises:
        UserError: The content is not what the ending says.
    """
    suffix = path.suffix.lower()
    if path.parent.suffix == H5:
        return read_array(path.parent, "data", int(path.name))
    if suffix in MESHES:
        return cloud_of(load_mesh(path, suffix[1:]), surface, name_seed(path.name))
    if suffix == ".pcd":
        return read_pcd(path.read_bytes())
    if suffix == ".npy":
        array = np.load(path, allow_pickle=False)
    elif suffix in TABLES:
        lines = path.read_text(encoding="utf-8").replace(",", " ").splitlines()
        lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        array = np.loadtxt(lines, ndmin=2) if lines else np.empty((0, 3))
    else:
        raise UserError(f"files ending in {suffix} are not known; there are {' '.join(PointsInput.extensions)}")
    if array.ndim != 2 or array.shape[1] < 3:
        raise UserError(f"its shape is {array.shape}; expected (points, 3 or more)")
    return array[:, :3]


def name_seed(name: str) -> int:
    """The seed with which the surface of a file is sampled."""
    return zlib.crc32(name.encode())


def load_mesh(file: Any, kind: str) -> Any:
    """A trimesh mesh without materials; faces may be missing.

    Args:
        file: A path or an open file.
        kind: The format, such as "obj".

    Raises:
        UserError: The content is not of that format.
    """
    try:
        import trimesh
    except ImportError as error:
        raise missing_extra("trimesh", "points") from error
    try:
        scene = trimesh.load_scene(file, file_type=kind, skip_materials=True)
    except Exception as error:  # its readers raise anything
        raise UserError(f"it is not a readable .{kind} file: {error}") from error
    parts = list(scene.geometry.values())
    if any(len(getattr(part, "faces", ())) for part in parts):
        return scene.to_mesh()
    return trimesh.PointCloud(np.concatenate([part.vertices for part in parts]) if parts else np.empty((0, 3)))


def cloud_of(mesh: Any, count: int, seed: int) -> np.ndarray:
    """Points drawn from the surface of a mesh in proportion to area, or its vertices where it has no faces.

    Args:
        mesh: A trimesh mesh or point cloud.
        count: Points to draw.
        seed: Seed of the drawing.

    Returns:
        Shape (N, 3), float64.
    """
    import trimesh

    if not len(getattr(mesh, "faces", ())):
        return np.asarray(mesh.vertices)
    if not mesh.area > 0:
        raise UserError("its faces have no area")
    return np.asarray(trimesh.sample.sample_surface(mesh, count, seed=seed)[0])


def read_pcd(content: bytes) -> np.ndarray:
    """The points of a PCD file of version 0.7, ascii or binary, shape (N, 3).

    Raises:
        UserError: It is compressed, cut off, or has no x, y and z.
    """
    mark = re.search(rb"^DATA +(\w+) *\r?\n", content, re.MULTILINE)
    if mark is None:
        raise UserError("its header has no DATA line")
    lines = (line.split() for line in content[: mark.start()].decode("ascii", "replace").splitlines())
    header = {words[0]: words[1:] for words in lines if words}
    try:
        fields, number = header["FIELDS"], int(header["POINTS"][0])
        counts = [int(count) for count in header.get("COUNT", ["1"] * len(fields))]
        if mark.group(1) == b"ascii":
            ends = np.cumsum(counts)
            columns = [int(ends[fields.index(axis)]) - 1 for axis in "xyz"]
            return np.loadtxt(content[mark.end() :].decode("ascii").splitlines(), ndmin=2, usecols=columns)[:number]
        if mark.group(1) != b"binary":
            raise UserError(f"its data are {mark.group(1).decode()}; save it as binary or ascii")
        kinds = [{"F": "f", "I": "i", "U": "u"}[kind] for kind in header["TYPE"]]
        types = [f"<{kind}{size}" for kind, size in zip(kinds, header["SIZE"], strict=True)]
        # Numbered, because fields without a meaning are all called "_".
        layout = np.dtype([(str(i), *column) for i, column in enumerate(zip(types, counts, strict=True))])
        table = np.frombuffer(content, layout, number, mark.end())
        return np.stack([table[str(fields.index(axis))][:, 0] for axis in "xyz"], 1)
    except UserError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"it is not a whole PCD file: {error}") from error


MODALITY = Modality(PointsInput, PointsAugment)
