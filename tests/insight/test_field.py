from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch import Tensor, nn

from unireplknet.errors import UserError
from unireplknet.insight.field import (
    Field,
    covering_square,
    draw_fields,
    last_map,
    open_branches,
    receptive_field,
)


def by_definition(data: np.ndarray, threshold: float) -> tuple[int, float]:
    """RepLKNet's rule, one square after the other: the first one that holds more than the part."""
    size = len(data)
    centre = size // 2
    for i in range(1, size // 2):
        square = data[centre - i : centre + i + 1, centre - i : centre + i + 1]
        if square.sum() / data.sum() > threshold:
            return 2 * i + 1, (2 * i + 1) ** 2 / size**2
    return size, 1.0


def test_area_ratio_by_hand() -> None:
    data = np.zeros((10, 10))
    data[5, 5] = 50  # the centre of an even size
    data[3, 5] = 25  # two pixels up
    data[0, 0] = 25  # reached by no odd square inside the map
    assert covering_square(data, 0.2) == (3, 0.09)
    assert covering_square(data, 0.5) == (5, 0.25)  # more than half, not half
    assert covering_square(data, 0.75) == (10, 1.0)
    assert covering_square(data, 0.74) == (5, 0.25)


@given(
    st.integers(3, 14).flatmap(
        lambda size: arrays(np.int64, (size, size), elements=st.integers(0, 100)).filter(np.any)
    ),
    st.sampled_from([0.2, 0.25, 0.3, 0.5, 0.99]),
)
def test_area_ratio_is_that_of_the_definition(data: np.ndarray, threshold: float) -> None:
    side, ratio = covering_square(data, threshold)
    wanted = by_definition(data, threshold)
    assert side == wanted[0]
    assert ratio == pytest.approx(wanted[1], rel=1e-12)


def test_oblong_maps_have_their_squares_cut() -> None:
    data = np.zeros((4, 12))
    data[2, 11] = 1
    assert covering_square(data, 0.5) == (11, 44 / 48)  # columns 1 to 11, every row


def convolution(weight: Tensor) -> nn.Conv2d:
    size = weight.shape[-1]
    conv = nn.Conv2d(len(weight), len(weight), size, padding=size // 2, groups=len(weight), bias=False).double()
    with torch.no_grad():
        conv.weight.copy_(weight[:, None])
    return conv


def placed(kernel: Tensor, size: int) -> np.ndarray:
    """A kernel about pixel (size // 2, size // 2) of a map."""
    map_, half, centre = np.zeros((size, size)), kernel.shape[-1] // 2, size // 2
    map_[centre - half : centre + half + 1, centre - half : centre + half + 1] = kernel
    return map_


def ones(channels: int, size: int, count: int = 3) -> Iterator[Tensor]:
    yield from torch.ones(count, channels, size, size, dtype=torch.float64)


@pytest.mark.parametrize("size", [12, 13])
def test_field_of_one_depthwise_convolution_is_its_kernel(size: int) -> None:
    weight = torch.rand(3, 5, 5, dtype=torch.float64)
    weight[:, ::2] = 0
    weight[:, :, 1] = 0
    field = receptive_field("conv", convolution(weight), ones(3, size))
    np.testing.assert_allclose(field.scores, placed(weight.sum(0), size), rtol=1e-12)
    assert ((field.scores > 0) == (placed(weight.sum(0), size) > 0)).all()
    assert field.images == 3


def test_field_of_two_convolutions_is_the_convolution_of_their_kernels() -> None:
    from scipy.signal import convolve2d

    first, second = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    field = receptive_field("two", nn.Sequential(convolution(first), convolution(second)), ones(1, 11))
    kernel = torch.from_numpy(convolve2d(first[0].flip(0, 1), second[0].flip(0, 1))).flip(0, 1)
    np.testing.assert_allclose(field.scores, placed(kernel, 11), rtol=1e-12)


def test_only_positive_features_and_gradients_count() -> None:
    weight = torch.rand(2, 3, 3, dtype=torch.float64)
    weight[1] *= -1  # a channel whose feature is negative
    weight[0, 0, 0] = -0.1  # a pixel that speaks against the other
    wanted = weight[0].clamp_min(0)
    field = receptive_field("signs", convolution(weight), ones(2, 9))
    np.testing.assert_allclose(field.scores, placed(wanted, 9), rtol=1e-12)


def test_images_are_averaged_and_those_without_a_number_left_out() -> None:
    conv = convolution(torch.ones(1, 3, 3, dtype=torch.float64))
    images = [torch.full((1, 7, 7), value, dtype=torch.float64) for value in (1.0, 2.0, float("nan"))]
    field = receptive_field("square", lambda x: conv(x).square(), images)
    # d(s²)/dx = 2 s, and s is 9 and 18
    np.testing.assert_allclose(field.scores, placed(torch.full((3, 3), 27.0), 7))
    assert field.images == 2


def test_images_of_several_sizes_are_refused() -> None:
    conv = convolution(torch.ones(1, 3, 3, dtype=torch.float64))
    images = [torch.ones(1, side, 5, dtype=torch.float64) for side in (5, 7)]
    with pytest.raises(UserError, match=r"conv: the images have several sizes, \(5, 5\) and \(7, 5\)"):
        receptive_field("conv", conv, images)


def test_a_centre_that_sees_nothing_is_said() -> None:
    with pytest.raises(UserError, match="dead: the centre of the last map depends on none"):
        receptive_field("dead", lambda x: 0 * x, ones(1, 5))


def test_scaling_is_replknets() -> None:
    field = Field("a", np.array([[0.0, 9.0, 0.0], [0.0, 99.0, 0.0], [0.0, 0.0, 0.0]]), 1)
    np.testing.assert_allclose(field.scaled, [[0, 0.5, 0], [0, 1, 0], [0, 0, 0]])
    assert field.summary()["largest"] == 99


@pytest.mark.parametrize(
    ("name", "reduction"), [("test_unireplknet", 32), ("test_convnext", 32), ("test_resnet", 32), ("test_vit", 16)]
)
def test_networks_of_timm_give_their_last_map(name: str, reduction: int) -> None:
    model = timm.create_model(name, num_classes=0).eval()
    side = model.default_cfg["input_size"][-1]
    found = last_map(model)(torch.randn(1, 3, side, side))
    assert found.shape[2:] == (side // reduction, side // reduction)
    with pytest.raises(UserError, match="Conv2d has no forward_intermediates"):
        last_map(nn.Conv2d(1, 1, 1))


def test_larger_kernels_see_wider_and_closed_branches_do_not() -> None:
    images = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))

    def ratio(size: int, opened: bool) -> float:
        torch.manual_seed(0)
        kernels = [[size] * depth for depth in (1, 1, 2, 1)]
        model = timm.create_model("test_unireplknet", kernel_sizes=kernels, num_classes=0).eval()
        features = last_map(open_branches(model, images[:, :, :64, :64]) if opened else model)
        return receptive_field("a", features, images).summary()["area_ratio"]["50%"]

    assert ratio(3, True) < ratio(7, True) < ratio(13, True)
    assert ratio(13, False) < ratio(3, True)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_unireplknet"])
def test_open_branches_change_what_passes_them(name: str) -> None:
    model = timm.create_model(name, num_classes=0).eval()
    maps = torch.randn(2, 3, 64, 64)
    model = open_branches(model, maps)
    found: dict[str, float] = {}
    blocks = [(key, m) for key, m in model.named_modules() if type(m).__name__.endswith(("Block", "Bottleneck"))]
    assert blocks
    for key, block in blocks:
        block.register_forward_hook(
            lambda _, args, out, key=key: found.update(
                {key: float((out - args[0]).std() / args[0].std()) if out.shape == args[0].shape else 1.0}
            )
        )
    with torch.no_grad():
        model(maps)
    assert min(found.values()) > 0.1
    assert all(m.momentum == 0.1 and not m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("count", [1, 5])
def test_fields_side_by_side(tmp_path: Path, count: int) -> None:
    data = placed(torch.ones(5, 5), 40)
    draw_fields([Field(f"network {i}", data, 1) for i in range(count)], tmp_path / "f.png")
    pixels = np.asarray(Image.open(tmp_path / "f.png").convert("L"))
    assert 0.2 < (pixels < 250).mean() < 0.95
