"""Whole models: the merge against the float64 definition, shapes, half precision, and wrong arguments."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests.nn import definition
from tests.nn.helpers import randomise, relative_error
from unireplknet import UniRepLKNet, create_model
from unireplknet.models import VARIANTS
from unireplknet.models.published import ABLATION_ROWS
from unireplknet.nn.reparam import default_branches

ALL_BRANCHES = {k: default_branches(k) for k in range(3, 33, 2)}
REDUCED = (8, 8, 12, 16)


def check_merge(model: UniRepLKNet, x: torch.Tensor, branches: dict, **stem: int) -> None:
    """Merged and unmerged float32 and float64 outputs against the definition, to the project's bounds."""
    model.eval()
    state = model.state_dict()
    with torch.no_grad():
        exact = definition.network(x.double(), state, branches, **stem)[1]
        plain = definition.network(x, state, branches, **stem)[1]
        bound = max(1e-5, 2 * relative_error(plain, exact))
        assert relative_error(copy.deepcopy(model).double()(x.double()), exact) < 1e-12
        assert relative_error(copy.deepcopy(model).double().reparameterize()(x.double()), exact) < 1e-12
        merged = copy.deepcopy(model).reparameterize()
        assert merged.merged
        assert not model.merged
        assert relative_error(merged(x), exact) <= bound


# Sizes that differ in width alone have the same blocks.
PATTERNS = {VARIANTS[name].kwargs()["kernel_sizes"]: name for name in VARIANTS}.values()
STRUCTURES = {repr(row.kwargs): row for row in ABLATION_ROWS}.values()


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("name", PATTERNS)
def test_merge_of_every_block_pattern(name: str, extreme: bool) -> None:
    kwargs = VARIANTS[name].kwargs() | {"dims": REDUCED}
    model = randomise(UniRepLKNet(num_classes=7, **kwargs), extreme=extreme)
    check_merge(model, torch.randn(2, 3, 32, 40), ALL_BRANCHES)


@pytest.mark.parametrize(
    "name",
    [
        "unireplknet_a",
        *(pytest.param(f"unireplknet_{v}", marks=pytest.mark.slow) for v in "fpnts"),
    ],
)
def test_merge_at_true_width(name: str) -> None:
    model = randomise(UniRepLKNet(num_classes=10, **VARIANTS[name].kwargs()))
    check_merge(model, torch.randn(1, 3, 96, 64), ALL_BRANCHES)


@pytest.mark.parametrize("size", range(3, 33, 2))
def test_merge_of_every_kernel_size(size: int) -> None:
    model = UniRepLKNet(2, 5, depths=(1, 1, 1, 1), dims=REDUCED, kernel_sizes=(size,) * 4, stem_stride=1)
    check_merge(randomise(model, seed=size), torch.randn(2, 2, 17, 24), ALL_BRANCHES, stem_stride=1)


@pytest.mark.parametrize("row", STRUCTURES, ids=lambda row: row.label)
def test_merge_of_every_ablation_row(row) -> None:
    model = randomise(UniRepLKNet(num_classes=5, **(row.kwargs | {"dims": REDUCED})))
    check_merge(model, torch.randn(1, 3, 40, 24), ALL_BRANCHES | row.kwargs.get("branches", {}))


def test_merge_keeps_device_dtype_mode_and_is_derived_from_the_modules() -> None:
    model = UniRepLKNet(num_classes=3, **VARIANTS["test_unireplknet"].kwargs(), dtype=torch.bfloat16).train()
    for p in model.stages[0].parameters():
        p.requires_grad_(False)
    assert model.reparameterize() is model
    assert model.merged
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(m.training for m in model.modules())
    assert not any(p.requires_grad for p in model.stages[0].parameters())
    assert all(p.requires_grad for p in model.stages[1].parameters())
    before = copy.deepcopy(model.state_dict())
    model.reparameterize()
    assert before.keys() == model.state_dict().keys()
    model.stages[0].blocks[0].norm = nn.BatchNorm2d(16)
    assert not model.merged


@pytest.mark.parametrize(("h", "w"), [(224, 224), (32, 32), (33, 47), (7, 130), (1, 1)])
@pytest.mark.parametrize("stride", [4, 2, 1])
def test_any_input_size(h: int, w: int, stride: int) -> None:
    kwargs = VARIANTS["test_unireplknet"].kwargs()
    model = randomise(UniRepLKNet(1, 4, **kwargs, stem_stride=stride)).eval()
    x = torch.randn(1, 1, min(h, 64), min(w, 64))
    stages, logits = definition.network(x, model.state_dict(), {7: default_branches(7)}, stem_stride=stride)
    with torch.no_grad():
        _, features = model.forward_intermediates(x)
        assert relative_error(model(x), logits) < 1e-4
    for feature, stage, info in zip(features, stages, model.feature_info, strict=True):
        assert relative_error(feature, stage) < 1e-4
        assert feature.shape[2] == -(-x.shape[2] // info["reduction"])
        assert feature.shape[3] == -(-x.shape[3] // info["reduction"])


# Features for dense prediction


def dense(merged: bool = False, **kwargs: Any) -> nn.Module:
    """A feature extractor with norms of its own, none of whose parameters is at its first value."""
    features = create_model("test_unireplknet", features_only=True, feature_norms=True, **kwargs)
    randomise(features)
    for norm in features.model.feature_norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    if merged:
        features.model.reparameterize()
    return features.eval()


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(("h", "w"), [(33, 47), (64, 256), (1, 1), (100, 167)])
def test_feature_norms_against_the_definition(h: int, w: int, merged: bool) -> None:
    """Odd sizes, and the aspects of 512 x 2048 and 800 x 1333."""
    features, x = dense(), torch.randn(2, 3, h, w)
    state = {key.removeprefix("model."): value.double() for key, value in features.state_dict().items()}
    state |= {"head.norm.weight": torch.ones(128), "head.norm.bias": torch.zeros(128)}
    state |= {"head.fc.weight": torch.zeros(1, 128), "head.fc.bias": torch.zeros(1)}
    stages, _ = definition.network(x.double(), {k: v.double() for k, v in state.items()}, {7: default_branches(7)})
    if merged:
        features.model.reparameterize()
    with torch.no_grad():
        made = features(x)
    for i, (feature, stage) in enumerate(zip(made, stages, strict=True)):
        norm = [state[f"feature_norms.{i}.{leaf}"] for leaf in ("weight", "bias")]
        rows = nn.functional.layer_norm(stage.movedim(1, -1), stage.shape[1:2], *norm, eps=1e-6)
        assert relative_error(feature, rows.movedim(-1, 1)) < 1e-4
        assert feature.shape[2:] == (-(-h // 2 ** (i + 2)), -(-w // 2 ** (i + 2)))
    assert features.feature_info.reduction() == [4, 8, 16, 32]
    assert features.feature_info.channels() == [16, 32, 64, 128]


def test_feature_norms_stand_beside_the_path() -> None:
    """The next stage and the classifier see the stage's own output, as in the published segmenters."""
    plain = randomise(UniRepLKNet(num_classes=5, **VARIANTS["test_unireplknet"].kwargs())).eval()
    model = UniRepLKNet(num_classes=5, **VARIANTS["test_unireplknet"].kwargs(), feature_norms=True).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
        assert torch.equal(model.forward_intermediates(x)[0], plain.forward_features(x))


def test_checkpointed_features_have_the_same_gradients() -> None:
    plain = dense(drop_path_rate=0.3).double().train()
    saving = copy.deepcopy(plain)
    saving.model.set_grad_checkpointing()
    outputs = []
    for features in (plain, saving):
        torch.manual_seed(1)
        outputs.append(features(torch.ones(2, 3, 65, 47).double().cumsum(2).sin()))
        sum(f.square().sum() for f in outputs[-1]).backward()
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(*outputs, strict=True))
    for (key, a), b in zip(saving.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("indices", [(1,), (0, 2), (-2, -1)])
def test_some_features_only(indices: tuple[int, ...]) -> None:
    features, x = dense(), torch.randn(1, 3, 32, 32)
    some = create_model("test_unireplknet", features_only=True, feature_norms=True, out_indices=indices).eval()
    some.load_state_dict({key: features.state_dict()[key] for key in some.state_dict()})
    with torch.no_grad():
        everything = features(x)
        assert all(torch.equal(a, everything[i]) for a, i in zip(some(x), indices, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_large_activations(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    model = UniRepLKNet(3, 4, **VARIANTS["test_unireplknet"].kwargs()).eval()
    x = 1e4 * torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert model.to(dtype)(x.to(dtype)).isfinite().all()
        with torch.autocast("cpu", dtype):
            assert model.float()(x).isfinite().all()


def test_drop_path_grows_linearly_over_all_blocks() -> None:
    model = UniRepLKNet(num_classes=2, depths=(1, 2, 2, 1), dims=REDUCED, kernel_sizes=(3,) * 4, drop_path_rate=0.5)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"kernel_sizes": (3, 13, (13,) * 5, 13), "depths": (2, 2, 6, 2)},
            r"kernel_sizes\[2\] has 5 .* depths\[2\] is 6",
        ),
        ({"depths": (2, 2, 6)}, "depths has 3 entries, expected 4"),
        ({"kernel_sizes": (3, 13, 12, 13)}, "kernel_size is 12, expected an odd number"),
        ({"branches": {13: [(5, 4)]}}, r"branches\[0\] is \(5, 4\)"),
        ({"stem_stride": 3}, "stem_stride is 3, expected 4, 2 or 1"),
    ],
)
def test_wrong_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        UniRepLKNet(**kwargs)
