"""Segmenters: published sizes, any input, what the library's decoder is given, and released files."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.nn.helpers import randomise, relative_error
from unireplknet import UniRepLKNet, load_weights, reparameterize
from unireplknet.errors import UserError
from unireplknet.models import weights
from unireplknet.tasks.segment.network import Segmenter
from unireplknet.training.optim import build_optimizer
from unireplknet.training.recipe import Optim

TINY = "test_unireplknet"


def tiny(backbone: str = TINY, **kwargs: Any) -> Segmenter:
    return Segmenter(backbone, 3, 5, **{"width": 32, **kwargs})


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (32, 128), (50, 83)])
@pytest.mark.parametrize("decoder", ["upernet", "unet"])
@pytest.mark.parametrize("backbone", [TINY, "test_convnext"])
def test_logits_are_as_large_as_the_map(backbone: str, decoder: Any, size: tuple[int, int]) -> None:
    model = tiny(backbone, decoder=decoder, auxiliary=True).eval()
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        logits, auxiliary = model.forward_training(x)
        assert logits.shape == auxiliary.shape == (2, 5, *size)
        assert torch.equal(model(x), logits)


@pytest.mark.parametrize(
    ("width", "dims"), [(128, [128, 64, 32, 16, 16]), (64, [64, 32, 16, 16, 16]), (8, [8, 8, 8, 8, 8])]
)
def test_unet_does_not_narrow_to_fewer_channels_than_classes_need(width: int, dims: list[int]) -> None:
    blocks = tiny(decoder="unet", width=width).network.decoder.blocks
    assert [block.conv2[0].out_channels for block in blocks] == dims


@pytest.mark.parametrize("decoder", ["upernet", "unet"])
def test_the_decoder_gets_the_normed_features(decoder: Any) -> None:
    """UPerNet of the library has norms of its own: with ours beside them features would be normed twice."""
    model, seen = tiny(decoder=decoder).eval(), []
    randomise(model)
    nn.init.normal_(model.backbone.feature_norms[1].weight)
    hooked = model.network.decoder.fpn_lateral_blocks[1] if decoder == "upernet" else model.network.decoder
    hooked.register_forward_pre_hook(lambda _, args: seen.append(args[1] if decoder == "upernet" else args[0][3]))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        model(x)
        features = model.backbone.forward_intermediates(x, intermediates_only=True)
    assert torch.equal(seen[0], features[1])
    stages: list[torch.Tensor] = []
    model.backbone.stages[1].register_forward_hook(lambda *args: stages.append(args[2]))
    with torch.no_grad():
        model(x)
    norm = model.backbone.feature_norms[1]
    rows = nn.functional.layer_norm(stages[0].movedim(1, -1), (32,), norm.weight, norm.bias, 1e-6)
    assert relative_error(seen[1], rows.movedim(-1, 1)) < 1e-5


@pytest.mark.parametrize(("size", "millions"), [("t", 61), ("s", 86), ("b", 130), ("l", 254)])
def test_published_parameters(size: str, millions: int) -> None:
    """Table 7 counts a merged backbone and the authors' decoder; ours is of the same plan, to within a few per cent."""
    with torch.device("meta"):
        model = Segmenter(f"unireplknet_{size}", 3, 150, width=512)
        count = sum(p.numel() for p in reparameterize(model).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.05)


def test_merged_is_unmerged() -> None:
    model, x = tiny(), torch.randn(1, 3, 40, 56)
    randomise(model)
    model.eval().double()
    with torch.no_grad():
        expected = model(x.double())
        merged = copy.deepcopy(model)
        merged.backbone.reparameterize()
        assert merged.backbone.merged
        assert relative_error(merged(x.double()), expected) < 1e-12


def test_checkpointing_gives_the_same_gradients() -> None:
    plain = tiny(decoder="unet").double().train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    assert all(stage.grad_checkpointing for stage in saving.backbone.stages)
    x = torch.randn(2, 3, 48, 48).double()
    for model in (plain, saving):
        model(x).square().sum().backward()
    for a, b in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backbone", [TINY, "test_convnext"])
def test_layer_decay_is_the_backbones_with_the_decoder_on_top(backbone: str) -> None:
    model = tiny(backbone, auxiliary=True)
    optimizer = build_optimizer(model, Optim(lr=1.0, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == {id(p) for p in model.parameters()}
    alone = build_optimizer(timm.create_model(backbone), Optim(lr=1.0, layer_decay=0.5))
    assert set(rates.values()) == {group["lr"] for group in alone.param_groups}
    assert {rates[id(p)] for p in model.network.decoder.parameters()} == {1.0}
    assert {rates[id(p)] for p in model.auxiliary.parameters()} == {1.0}
    assert {rates[id(p)] for p in model.backbone.stem.parameters()} == {min(rates.values())}


def test_the_backbone_of_a_released_segmenter(tmp_path: Path) -> None:
    released = UniRepLKNet(num_classes=0, feature_norms=True, depths=(1, 1, 2, 1), dims=(16, 32, 64, 128),
                           kernel_sizes=(3, 7, (7, 3), 7))  # fmt: skip
    randomise(released)
    for norm in released.feature_norms:
        nn.init.normal_(norm.weight)
    state = {f"backbone.{k}": v for k, v in weights.to_released(released).items() if not k.startswith("norm.")}
    torch.save({"state_dict": state | {"decode_head.conv_seg.weight": torch.zeros(5)}}, tmp_path / "upernet.pth")
    model = tiny()
    load_weights(model.backbone, tmp_path / "upernet.pth")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = model.eval().network.encoder(x)[2:]
        expected = released.eval().forward_intermediates(x, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(features, expected, strict=True))


def test_the_library_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UserError, match=r'run: pip install "unireplknet\[segment\]"'):
        tiny()
