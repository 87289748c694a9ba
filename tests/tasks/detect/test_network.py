"""Detectors: each kind of torchvision's over networks of ours and of timm's."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from tests.nn.helpers import randomise
from unireplknet.errors import UserError
from unireplknet.tasks.detect.network import Detector
from unireplknet.training.optim import build_optimizer
from unireplknet.training.recipe import Optim

TINY = "test_unireplknet"
ANCHORS = {"faster_rcnn": (8, 16, 32, 64, 128), "mask_rcnn": (8, 16, 32, 64), "retinanet": (16, 32, 64)}
KINDS = sorted(ANCHORS)
SMALL = {"width": 16, "head_width": 32, "proposals": 30, "rois": 16, "short": 48, "long": 96}


def tiny(backbone: str = TINY, detector: str = "faster_rcnn", **kwargs: Any) -> Detector:
    return Detector(backbone, 3, 5, detector, **({"anchors": ANCHORS[detector]} | SMALL | kwargs))


def targets() -> list[dict[str, Tensor]]:
    """One object of the last class, and an image without any."""
    masks = torch.zeros(1, 48, 64, dtype=torch.uint8)
    masks[:, 10:30, 20:40] = 1
    box = {"boxes": torch.tensor([[20.0, 10, 40, 30]]), "labels": torch.tensor([4]), "masks": masks}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return [box, nothing | {"masks": torch.zeros(0, 40, 50, dtype=torch.uint8)}]


def maps() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, 48, 64), torch.randn(3, 40, 50)]


@pytest.mark.parametrize("detector", KINDS)
@pytest.mark.parametrize("backbone", [TINY, "test_convnext"])
def test_losses_reach_every_weight(backbone: str, detector: Any) -> None:
    """So that several processes can train together, images without objects among theirs or not."""
    model = tiny(backbone, detector)
    for some in (targets(), targets()[1:]):
        losses = model(maps()[-len(some) :], some)
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert ("loss_mask" in losses) == (detector == "mask_rcnn")
        sum(losses.values()).backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        model.zero_grad()


@pytest.mark.parametrize("detector", KINDS)
@pytest.mark.parametrize("backbone", [TINY, "test_convnext"])
def test_a_few_steps_find_the_object(backbone: str, detector: Any) -> None:
    """Of the last class: a count of classes that is one off does not pass."""
    torch.manual_seed(0)
    model = tiny(backbone, detector)
    map, target = torch.zeros(3, 48, 64), targets()[:1]
    map[:, 10:30, 20:40] = 1.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3 if detector == "retinanet" else 3e-3)
    losses = []
    for _ in range(100):
        loss = torch.stack(list(model([map], target).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():
        model.train()  # the statistics of batches of one image are those of that image
        for module in model.modules():
            module.training = isinstance(module, nn.BatchNorm2d)
        found = model([map])[0]
    assert found["labels"][0] == 4
    assert box_iou(found["boxes"][:1], target[0]["boxes"]).item() > 0.5
    assert (found["scores"].diff() <= 0).all()
    if detector == "mask_rcnn":
        assert found["masks"].shape == (len(found["labels"]), 48, 64)
        assert found["masks"].dtype == torch.bool


@pytest.mark.parametrize("detector", KINDS)
def test_boxes_belong_to_the_map_whatever_the_network_scales_it_to(detector: Any) -> None:
    model = tiny(detector=detector).eval()
    seen: list[Tensor] = []
    model.network.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        found = model([torch.randn(3, 96, 144), torch.randn(3, 30, 20)])
    # 48 x 72 and 72 x 48, filled up to multiples of 32
    assert [tuple(maps.shape) for maps in seen] == [(1, 3, 64, 96), (1, 3, 96, 64)]
    for (height, width), image in zip([(96, 144), (30, 20)], found, strict=True):
        assert image["boxes"].shape == (len(image["scores"]), 4)
        assert (image["boxes"] >= 0).all()
        assert (image["boxes"] <= torch.tensor([width, height, width, height])).all()


@pytest.mark.parametrize("detector", KINDS)
def test_what_is_found_does_not_depend_on_the_other_maps(detector: Any) -> None:
    """Filled up with zeros to the size of another map, a map has other averages in SE and GRN."""
    torch.manual_seed(0)
    model = tiny(detector=detector).eval()
    randomise(model.backbone)
    if detector == "retinanet":
        model.network.score_thresh = 0.0  # untrained, it is sure of nothing
    lying, standing = torch.rand(3, 48, 90), torch.rand(3, 90, 48)
    with torch.no_grad():
        alone, beside = model([lying])[0], model([lying, standing])[0]
    assert len(alone["scores"]) > 3
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_objects_are_looked_at_in_the_level_of_their_size(stride: int) -> None:
    """Boxes seven times as large as the finest anchor in the third of four levels, whatever the strides."""
    model = tiny(anchors=(8, 16, 32, 64), stem_stride=stride).eval()
    with torch.no_grad():
        model([torch.rand(3, 64, 96)])
    sides = torch.tensor([14.0, 28, 56, 112]) + 1
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), sides, sides], 1)
    assert model.network.roi_heads.box_roi_pool.map_levels([boxes]).tolist() == [0, 1, 2, 3]


def test_maps_are_seen_as_they_are_in_training() -> None:
    """Neither scaled nor normalised a second time."""
    model, seen = tiny(), []
    model.network.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    given = [torch.randn(3, 64, 96), torch.randn(3, 32, 32)]
    model(given, [{k: v for k, v in t.items() if k != "masks"} for t in targets()])
    assert torch.equal(seen[0][0], given[0])
    assert torch.equal(seen[0][1, :, :32, :32], given[1])
    assert not seen[0][1, :, 32:].any()


def test_the_pyramid_gets_the_normed_features() -> None:
    model = tiny().eval()
    randomise(model.backbone)
    nn.init.normal_(model.backbone.feature_norms[1].weight)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.backbone.forward_intermediates(x, intermediates_only=True)
        features = model.features(x)
        levels = model.network.backbone(x)
    assert len(features) == 4
    assert all(torch.equal(a, b) for a, b in zip(features, expected, strict=True))
    assert [level.shape[1:] for level in levels.values()] == [(16, s, s) for s in (16, 8, 4, 2, 1)]


@pytest.mark.parametrize("detector", KINDS)
def test_the_stages_of_other_networks_are_normed_for_the_pyramid(detector: Any) -> None:
    model, seen = tiny("test_convnext", detector).eval(), []
    randomise(model)
    pyramid = model.network.backbone
    pyramid.fpn.register_forward_pre_hook(lambda _, args: seen.extend(args[0].values()))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        pyramid(x)
        stages = model.features(x)
    assert len(seen) == len(stages) == (3 if detector == "retinanet" else 4)
    for found, stage, norm in zip(seen, stages, pyramid.norms, strict=True):
        rows = nn.functional.layer_norm(stage.movedim(1, -1), (stage.shape[1],), norm.weight, norm.bias, 1e-6)
        assert torch.allclose(found, rows.movedim(-1, 1), atol=1e-5)


@pytest.mark.parametrize("detector", KINDS)
@pytest.mark.parametrize("backbone", [TINY, "test_convnext"])
def test_layer_decay_is_the_backbones_with_the_heads_on_top(backbone: str, detector: Any) -> None:
    model = tiny(backbone, detector)
    optimizer = build_optimizer(model, Optim(lr=1.0, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    alone = build_optimizer(timm.create_model(backbone), Optim(lr=1.0, layer_decay=0.5))
    assert set(rates.values()) == {group["lr"] for group in alone.param_groups}
    heads = [p for name, p in model.named_parameters() if "features" not in name]
    assert {rates[id(p)] for p in heads} == {1.0}
    assert {rates[id(p)] for p in model.backbone.stem.parameters()} == {min(rates.values())}


def test_activations_can_be_computed_again() -> None:
    model = tiny().eval()
    x = torch.randn(1, 3, 64, 64)

    def gradient() -> Tensor:
        model.zero_grad()
        torch.stack([level.square().sum() for level in model.features(x)]).sum().backward()
        return model.backbone.stem.conv1.weight.grad.clone()

    expected = gradient()
    model.set_grad_checkpointing()
    assert all(stage.grad_checkpointing for stage in model.backbone.stages)
    assert torch.allclose(gradient(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("detector", "count", "message"),
    [
        ("faster_rcnn", 3, "3 anchors for faster_rcnn; expected 4 or 5, one a level"),
        ("mask_rcnn", 6, "6 anchors for mask_rcnn; expected 4 or 5"),
        ("retinanet", 4, "4 anchors for retinanet; expected 3 or 5"),
    ],
)
def test_there_is_an_anchor_a_level(detector: Any, count: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny(detector=detector, anchors=(8,) * count)


def test_standard_sizes_are_those_of_torchvision() -> None:
    """Over the same ResNet as many parameters as torchvision's own detectors, a class of them being the background, but
    for the norms of the stages, which torchvision's have not."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn, retinanet_resnet50_fpn

    def count(model: nn.Module) -> int:
        others = ("body", "features", "backbone.norms")
        return sum(p.numel() for name, p in model.named_parameters() if not any(other in name for other in others))

    with torch.device("meta"):
        for detector, theirs, classes in (
            ("faster_rcnn", fasterrcnn_resnet50_fpn, 81),
            ("mask_rcnn", maskrcnn_resnet50_fpn, 81),
            ("retinanet", retinanet_resnet50_fpn, 80),
        ):
            expected = count(theirs(weights=None, weights_backbone=None, num_classes=classes))
            assert count(Detector("resnet50", 3, 80, detector)) == expected


def test_retinanet_may_have_two_coarser_levels() -> None:
    model = tiny(detector="retinanet", anchors=(8, 16, 32, 64, 128)).eval()
    with torch.no_grad():
        levels = model.network.backbone(torch.zeros(1, 3, 96, 128))
        assert [tuple(level.shape[2:]) for level in levels.values()] == [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
    losses = model.train()(maps(), [{k: v for k, v in t.items() if k != "masks"} for t in targets()])
    assert torch.isfinite(torch.stack(list(losses.values()))).all()
