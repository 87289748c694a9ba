"""timm's contract for a model, over the names that its registry lists after ``import unireplknet``."""

import copy
import io
import math
import pickle
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import FeatureInfo, create_feature_extractor, group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import reparameterize_model
from torch import Tensor, nn

import unireplknet
from unireplknet import UniRepLKNet

NAMES = timm.list_models("*unireplknet*")
LARGE = ("unireplknet_s", "unireplknet_b", "unireplknet_l", "unireplknet_xl")
HUGE = "unireplknet_h"
variants = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in NAMES if name != HUGE],
)
TINY = "test_unireplknet"


def create(name: str = TINY, **kwargs: Any) -> Any:
    """A model whose every parameter and statistic matters to its output: fresh ones hide their blocks."""
    model = timm.create_model(name, **kwargs)
    with torch.no_grad():
        for key, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point() and value.ndim <= 1:
                value.normal_(0, 0.2)
                if key.endswith(("weight", "running_var", "layer_scale", "fc1.bias")):
                    value.abs_().add_(0.5)
    return model.eval()


def relative_error(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def image(*size: int, chans: int = 3, batch: int = 2, **kwargs: Any) -> Tensor:
    height, width = size or (64, 64)
    return torch.randn(batch, chans, height, width, **kwargs)


def reduced(size: int, reduction: int) -> int:
    """Every halving rounds up."""
    return math.ceil(size / reduction)


def test_the_registry_lists_the_whole_family() -> None:
    family = {f"unireplknet_{size}" for size in ("a", "f", "p", "n", "t", "s", "b", "l", "xl", "h")}
    assert set(NAMES) == family | {TINY}
    assert set(unireplknet.list_models()) == family
    assert all(timm.is_model(name) for name in NAMES)


# Forward, backward, head


@variants
def test_forward_and_backward(name: str) -> None:
    model = create(name, num_classes=42)
    logits = model(image())
    assert logits.shape == (2, 42)
    logits.square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.3])
def test_backward_in_training(drop_path_rate: float) -> None:
    """A constant before a BatchNorm has gradient zero: that of a branch's norm and of GRN; all others have one."""
    model = create(drop_path_rate=drop_path_rate).double().train()
    model(image(96, 96, batch=8, dtype=torch.float64)).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), key
        size = parameter.grad.abs().max().item()
        constant = (".branches." in key and key.endswith("bn.bias")) or key.endswith("grn.bias")
        assert size < 1e-15 if constant and not drop_path_rate else constant or size > 1e-12, key


def test_training_moves_statistics_and_lowers_the_loss() -> None:
    model = timm.create_model(TINY, num_classes=4).train()
    x, target = image(32, 32, batch=16), torch.arange(16) % 4
    optimizer = create_optimizer_v2(model, "adamw", lr=3e-3)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(m.running_mean.any() for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@variants
def test_head(name: str) -> None:
    model, x = create(name), image()
    with torch.no_grad():
        features = model.forward_features(x)
        pre_logits = model.forward_head(features, pre_logits=True)
        logits = model(x)
        assert features.shape == (2, model.num_features, 2, 2)
        assert pre_logits.shape == (2, model.head_hidden_size)
        assert torch.equal(model.forward_head(features), logits)
        assert logits.shape == (2, model.num_classes)
        classifier = model.get_classifier()
        assert isinstance(classifier, nn.Linear)
        assert torch.equal(classifier(pre_logits), logits)
        model.reset_classifier(0)
        assert model.num_classes == 0
        assert torch.equal(model(x), pre_logits)
        model.reset_classifier(0, "")
        unpooled = model(x)
        assert unpooled.shape == features.shape
        model.reset_classifier(5, "avg")
        assert model(x).shape == (2, 5)
        assert model.num_classes == model.get_classifier().out_features == 5


def test_head_at_construction() -> None:
    x = image()
    assert create(num_classes=0)(x).shape == (2, 128)
    assert isinstance(create(num_classes=0).get_classifier(), nn.Identity)
    assert create(num_classes=0, global_pool="")(x).shape == (2, 128, 2, 2)
    assert create(num_classes=6, global_pool="max")(x).shape == (2, 6)
    assert create(num_classes=6, global_pool="")(x).shape == (2, 6, 2, 2)


@pytest.mark.parametrize("pool", [None, "avg", "max", ""])
def test_reset_classifier_keeps_device_dtype_and_mode(pool: str | None) -> None:
    model = create(dtype=torch.float64)
    model.reset_classifier(3, pool)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not any(m.training for m in model.modules())
    model.prune_intermediate_layers([1])
    model.reset_classifier(3, "avg")
    assert model.get_classifier().weight.dtype == torch.float64
    assert model(image(dtype=torch.float64)).shape == (2, 3)


# Configuration


@variants
def test_default_cfg(name: str) -> None:
    model = create(name)
    cfg, state = model.default_cfg, model.state_dict()
    assert cfg is model.pretrained_cfg
    assert cfg["architecture"] == name
    assert cfg["num_classes"] == model.num_classes == 1000
    assert f"{cfg['classifier']}.weight" in state
    assert state[f"{cfg['first_conv']}.weight"].shape[1] == cfg["input_size"][0] == 3
    assert cfg["mean"] == (0.485, 0.456, 0.406)
    assert cfg["std"] == (0.229, 0.224, 0.225)
    assert cfg["interpolation"] == "bicubic"
    assert cfg["license"] == "apache-2.0"
    assert tuple(math.ceil(side / 32) for side in cfg["input_size"][1:]) == cfg["pool_size"]
    data = resolve_model_data_config(model)
    assert data["input_size"] == cfg["input_size"]
    assert data["crop_pct"] == cfg["crop_pct"]
    timm.data.create_transform(**data)


RELEASED_FILES = {
    "a_in1k_224_acc77.03": (224, 1000),
    "f_in1k_224_acc78.58": (224, 1000),
    "p_in1k_224_acc80.23": (224, 1000),
    "n_in1k_224_acc81.64": (224, 1000),
    "t_in1k_224_acc83.21": (224, 1000),
    "s_in1k_224_acc83.91": (224, 1000),
    "s_in22k_pretrain": (224, 21841),
    "s_in22k_to_in1k_384_acc86.44": (384, 1000),
    "b_in22k_pretrain": (224, 21841),
    "b_in22k_to_in1k_384_acc87.40": (384, 1000),
    "l_in22k_pretrain": (192, 21841),
    "l_in22k_to_in1k_384_acc87.88": (384, 1000),
    "xl_in22k_pretrain": (192, 21841),
    "xl_in22k_to_in1k_384_acc87.96": (384, 1000),
}


def test_every_released_file_has_a_tag() -> None:
    configs = [timm.get_pretrained_cfg(tag) for tag in timm.list_models("*unireplknet*", pretrained=True)]
    assert {c.hf_hub_filename for c in configs} == {f"unireplknet_{name}.pth" for name in RELEASED_FILES}
    assert len(configs) == len(RELEASED_FILES)
    for config in configs:
        size, classes = RELEASED_FILES[config.hf_hub_filename.removeprefix("unireplknet_").removesuffix(".pth")]
        assert config.hf_hub_id == "DingXiaoH/UniRepLKNet"
        assert config.hf_hub_filename.startswith(config.architecture)
        assert config.input_size == (3, size, size)
        assert config.pool_size == (size // 32, size // 32)
        assert config.num_classes == classes
        # At 224 the authors resize to 256 and crop; from 384 on they resize without a crop.
        assert (config.crop_pct, config.crop_mode) == ((1.0, "squash") if size == 384 else (0.875, "center"))
        assert math.floor(224 / 0.875) == 256


@pytest.mark.parametrize("tag", timm.list_models("*unireplknet*", pretrained=True))
def test_a_tag_brings_its_class_count_and_input(tag: str) -> None:
    model = timm.create_model(tag, device="meta", depths=(1, 1, 1, 1), kernel_sizes=(3, 13, 13, 13))
    cfg = model.pretrained_cfg
    assert f"{cfg['architecture']}.{cfg['tag']}" == tag
    assert model.num_classes == cfg["num_classes"] == model.get_classifier().out_features
    assert model(torch.empty(1, *cfg["input_size"], device="meta")).shape == (1, model.num_classes)


def test_models_without_released_weights_say_so() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model(TINY, pretrained=True)


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(ValueError, match="did you mean unireplknet_t"):
        unireplknet.create_model("unireplknet-t")


# Features


@variants
def test_features(name: str) -> None:
    model, x = create(name), image(33, 47, batch=1)
    info = FeatureInfo(copy.deepcopy(model.feature_info), (0, 1, 2, 3))
    assert info.channels() == [model.num_features // 8 * 2**i for i in range(4)]
    assert info.reduction() == [4, 8, 16, 32]
    with torch.no_grad():
        last, stages = model.forward_intermediates(x)
        assert torch.equal(last, model.forward_features(x))
        assert torch.equal(stages[-1], last)
    for stage, channels, reduction in zip(stages, info.channels(), info.reduction(), strict=True):
        assert stage.shape == (1, channels, reduced(33, reduction), reduced(47, reduction))
    extractor = timm.create_model(name, features_only=True).eval()
    assert extractor.feature_info.channels() == info.channels()
    assert extractor.feature_info.reduction() == info.reduction()
    load_renamed(extractor, model)
    with torch.no_grad():
        for feature, stage in zip(extractor(x), stages, strict=True):
            assert torch.equal(feature, stage)


def load_renamed(extractor: nn.Module, model: nn.Module) -> None:
    """Give a feature extractor the weights of a model, whatever it has made of the names."""
    flat = {key.replace(".", "_"): value for key, value in model.state_dict().items()}
    own = extractor.state_dict()
    plain = {key: key.removeprefix("model.").removeprefix("graph_module.").replace(".", "_") for key in own}
    extractor.load_state_dict({key: flat[name] for key, name in plain.items()})


@pytest.mark.parametrize("feature_cls", ["dict", "hook", "getter", "fx"])
@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1,), (0, 2), (-1,), (-2, -1), 2])
def test_feature_classes(feature_cls: str, out_indices: Any) -> None:
    if feature_cls != "getter" and isinstance(out_indices, int):
        out_indices = (2, 3)
    model, x = create(), image(45, 51)
    extractor = timm.create_model(TINY, features_only=True, feature_cls=feature_cls, out_indices=out_indices).eval()
    load_renamed(extractor, model)
    with torch.no_grad():
        expected = model.forward_intermediates(
            x, indices=list(out_indices) if isinstance(out_indices, tuple) else out_indices, intermediates_only=True
        )
        features = extractor(x)
    features = list(features.values()) if isinstance(features, dict) else features
    assert [f.shape[1] for f in features] == extractor.feature_info.channels()
    for feature, stage in zip(features, expected, strict=True):
        assert torch.equal(feature, stage)


@pytest.mark.parametrize(
    ("indices", "stages"),
    [
        (None, [0, 1, 2, 3]),
        (1, [3]),
        (3, [1, 2, 3]),
        ([0], [0]),
        ([2, 0], [0, 2]),
        ([-4, -1], [0, 3]),
    ],
)
def test_forward_intermediates_indices(indices: Any, stages: list[int]) -> None:
    model, x = create(), image()
    with torch.no_grad():
        everything = model.forward_intermediates(x, intermediates_only=True)
        last, some = model.forward_intermediates(x, indices=indices)
        stopped_at, stopped = model.forward_intermediates(x, indices=indices, stop_early=True)
    assert torch.equal(last, everything[-1])
    assert torch.equal(stopped_at, everything[max(stages)])
    for taken in (some, stopped):
        assert [t.shape for t in taken] == [everything[i].shape for i in stages]
        assert all(torch.equal(t, everything[i]) for t, i in zip(taken, stages, strict=True))


def test_stop_early_runs_no_later_stage() -> None:
    model = create()
    model.stages[2].register_forward_hook(lambda *_: pytest.fail("stage 2 was run"))
    model.forward_intermediates(image(), indices=[0, 1], stop_early=True)


@pytest.mark.parametrize("indices", [5, 0, -1, [4], [-5], []])
def test_impossible_indices(indices: Any) -> None:
    model = create()
    with pytest.raises(ValueError, match="indices"):
        model.forward_intermediates(image(), indices=indices)
    with pytest.raises(ValueError, match="indices"):
        model.prune_intermediate_layers(indices)
    assert len(model.stages) == 4


def test_other_output_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="output_fmt is 'NHWC'"):
        create().forward_intermediates(image(), output_fmt="NHWC")


@pytest.mark.parametrize("indices", [1, 2, [0], [1, 2], [-2], [0, 3]])
def test_prune_intermediate_layers(indices: Any) -> None:
    model, x = create(), image()
    with torch.no_grad():
        expected = model.forward_intermediates(x, indices=indices, intermediates_only=True)
        count = len(list(model.parameters()))
        kept = model.prune_intermediate_layers(indices)
        pruned = model.forward_intermediates(x, indices=kept, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(pruned, expected, strict=True))
        assert len(model.stages) == max(kept) + 1
        assert len(list(model.parameters())) < count
        assert model.num_classes == 0
        features = model.forward_features(x)
        assert features.shape[1] == model.num_features == model.head_hidden_size
        assert torch.equal(model(x), features)
        model.reset_classifier(3, "avg")
        assert model(x).shape == (2, 3)


def test_prune_can_keep_the_head() -> None:
    model, x = create(), image()
    logits = model(x)
    model.prune_intermediate_layers(1, prune_head=False)
    assert torch.equal(model(x), logits)


# Training machinery


@pytest.mark.parametrize("reentrant", [False, True])
def test_grad_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    timm.layers.set_reentrant_ckpt(reentrant)
    try:
        plain = create(drop_path_rate=0.3).double().train()
        saving = copy.deepcopy(plain)
        saving.set_grad_checkpointing()
        x = image(48, 48, dtype=torch.float64)
        outputs = []
        for model in (plain, saving):
            torch.manual_seed(1)
            outputs.append(model(x))
            outputs[-1].square().sum().backward()
    finally:
        timm.layers.set_reentrant_ckpt(False)
    assert relative_error(outputs[1], outputs[0]) < 1e-12
    for (key, a), b in zip(saving.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12, msg=key)


def test_grad_checkpointing_is_used_and_can_be_turned_off() -> None:
    model, calls = create(), []
    model.stages[2].blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    for enable, expected in ((True, 2), (False, 1)):
        calls.clear()
        model.set_grad_checkpointing(enable)
        model(image()).sum().backward()
        assert len(calls) == expected
    model.set_grad_checkpointing()
    calls.clear()
    with torch.no_grad():
        model(image())
    assert len(calls) == 1


@variants
@pytest.mark.parametrize("coarse", [False, True])
def test_group_matcher(name: str, coarse: bool) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    groups = group_parameters(model, model.group_matcher(coarse))
    names = [key for key, _ in model.named_parameters()]
    assert sorted(key for group in groups.values() for key in group) == sorted(names)
    layer = {key: i for i, group in groups.items() for key in group}
    depths = [len(stage.blocks) for stage in model.stages]
    assert len(groups) == (1 + 4 + 1 if coarse else 1 + sum(depths) + 1)
    assert {layer[key] for key in names if key.startswith("stem")} == {0}
    assert {layer[key] for key in names if key.startswith("head")} == {len(groups) - 1}
    # Along the network the layers only go up, and a block is never split.
    order = [layer[key] for key in names]
    assert order == sorted(order)
    for i, depth in enumerate(depths):
        for j in range(depth):
            block = {layer[key] for key in names if key.startswith(f"stages.{i}.blocks.{j}.")}
            assert block == {1 + i if coarse else 1 + sum(depths[:i]) + j}


def test_layer_decay_reaches_every_parameter() -> None:
    model = create()
    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert scale.keys() == {id(p) for p in model.parameters()}
    assert scale[id(model.head.fc.weight)] == 1
    assert scale[id(model.stages[3].blocks[0].pwconv1.weight)] == 0.5
    assert scale[id(model.stages[3].downsample.conv.weight)] == 0.5
    assert scale[id(model.stem.conv1.weight)] == 0.5 ** (sum(len(s.blocks) for s in model.stages) + 1)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert all(decay[id(p)] == (0.05 if p.ndim > 1 else 0) for p in model.parameters())
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, layer_decay=0.7)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


# Inputs, devices, dtypes


@pytest.mark.parametrize("size", [(33, 47), (32, 32), (1, 1), (5, 97), (31, 1)])
@pytest.mark.parametrize("name", [TINY, "unireplknet_a"])
def test_any_input_size(name: str, size: tuple[int, int]) -> None:
    """The 13 x 13 kernels of A see maps down to 1 x 1."""
    model, x = create(name), image(*size, batch=1)
    with torch.no_grad():
        stages = model.forward_intermediates(x, intermediates_only=True)
        assert [s.shape[2:] for s in stages] == [tuple(reduced(side, 2**i) for side in size) for i in (2, 3, 4, 5)]
        logits = model(x)
        assert logits.isfinite().all()
        # Padding is by zeros on both sides: a mirrored input gives mirrored features where the size is odd.
        assert relative_error(model(x.contiguous(memory_format=torch.channels_last)), logits) < 1e-5
        assert relative_error(model.double()(x.double()).float(), logits) < 1e-4


def test_non_contiguous_input() -> None:
    model, wide = create(), image(64, 128)
    assert torch.equal(model(wide[..., ::2]), model(wide[..., ::2].contiguous()))


def test_samples_of_a_batch_do_not_mix() -> None:
    model, x = create(), image(45, 51, batch=3)
    with torch.no_grad():
        assert relative_error(model(x)[1:2], model(x[1:2])) < 1e-5


@pytest.mark.parametrize("chans", [1, 2, 4, 13])
def test_input_channels(chans: int) -> None:
    model = create(in_chans=chans)
    assert model.in_chans == chans
    assert model(image(chans=chans)).shape == (2, 1000)
    extractor = timm.create_model(TINY, in_chans=chans, features_only=True)
    assert len(extractor(image(chans=chans))) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_at_construction(dtype: torch.dtype) -> None:
    model = timm.create_model(TINY, dtype=dtype).eval()
    for value in [*model.parameters(), *model.buffers()]:
        assert value.dtype in (dtype, torch.int64)
    assert model.stem.conv2.weight.float().std().item() == pytest.approx(0.02, rel=0.1)
    output = model(image(dtype=dtype))
    assert output.dtype == dtype
    assert output.isfinite().all()
    assert model.reparameterize()(image(dtype=dtype)).dtype == dtype


def test_meta_device_at_construction() -> None:
    model = timm.create_model(TINY, device="meta")
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"meta"}
    assert model(image(device="meta")).shape == (2, 1000)
    filled = model.to_empty(device="cpu")
    filled.load_state_dict(create().state_dict())
    assert filled.eval()(image()).isfinite().all()


@pytest.mark.parametrize("merged", [False, True])
def test_autocast(merged: bool) -> None:
    model, x = create(), image()
    expected = model(x)
    if merged:
        model.reparameterize()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
    assert relative_error(output.float(), expected) < 0.1


@pytest.mark.parametrize("merged", [False, True])
def test_huge_variant_on_meta(merged: bool) -> None:
    model = timm.create_model(HUGE, device="meta")
    if merged:
        model.reparameterize()
    assert 1.34e9 < sum(p.numel() for p in model.parameters()) < 1.37e9
    last, stages = model.eval().forward_intermediates(image(64, 96, device="meta"))
    assert [s.shape[1] for s in stages] == [480, 960, 1920, 3840]
    assert model.forward_head(last).shape == (2, 1000)


def test_huge_variant_at_depth_one() -> None:
    depth_one = {"depths": (1, 1, 1, 1), "kernel_sizes": (3, 13, 13, 13), "num_classes": 3}
    model = timm.create_model(HUGE, device="meta", **depth_one).eval().to_empty(device="cpu")
    for value in [*model.parameters(), *model.buffers()]:  # faster than the initialisation
        low, high = (-0.03, 0.03) if value.ndim > 1 else (0.5, 1)
        value.data.uniform_(low, high) if value.is_floating_point() else value.zero_()
    x = image(33, 47, batch=1)
    with torch.no_grad():
        expected = model(x)
        assert expected.shape == (1, 3)
        assert relative_error(model.reparameterize()(x), expected) < 1e-5


# Tracing, copying, merging, compiling


@pytest.mark.parametrize("name", [TINY, "unireplknet_a"])
@pytest.mark.parametrize("training", [False, True])
def test_fx(name: str, training: bool) -> None:
    model = create(name).double().train(training)
    traced = create_feature_extractor(copy.deepcopy(model), {"head.fc": "y"}).train(training)
    x = image(64, 96, dtype=torch.float64)
    output, expected = traced(x)["y"], model(x)
    assert relative_error(output, expected) < 1e-12
    for y in (output, expected):
        y.square().sum().backward()
    gradients = dict(traced.named_parameters())
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[key].grad, parameter.grad, rtol=1e-9, atol=1e-12)


def test_fx_follows_the_mode_and_the_size() -> None:
    model = create()
    traced = create_feature_extractor(copy.deepcopy(model), ["stages.1", "head.fc"])
    for size in ((64, 64), (33, 47)):
        x = image(*size)
        assert torch.equal(traced.eval()(x)["head.fc"], model.eval()(x))
    # A training step folds the layer scale into the norm before it, which a traced one cannot: equal to rounding.
    x = image().double()
    expected = model.double().train()(x)
    got = traced.double().train()(x)["head.fc"]
    assert (got - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize("merged", [False, True])
def test_copy_and_pickle(merged: bool) -> None:
    model, x = create(), image()
    if merged:
        model.reparameterize()
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(saved, weights_only=False)]
    for twin in copies:
        assert torch.equal(twin(x), model(x))
        assert twin.merged == merged
        assert twin.pretrained_cfg == model.pretrained_cfg
        twin.head.fc.weight.data.zero_()
    assert model.head.fc.weight.any()


@variants
def test_timm_and_own_merge_give_the_same_network(name: str) -> None:
    model, x = create(name), image(33, 47, batch=1)
    with torch.no_grad():
        expected = model.double()(x.double()).float()
        model.float()
        by_timm = reparameterize_model(model)
        assert not model.merged
        assert by_timm.merged
        assert model.reparameterize() is model
        own, other = model.state_dict(), by_timm.state_dict()
        assert own.keys() == other.keys()
        assert all(torch.equal(own[key], other[key]) for key in own)
        assert relative_error(model(x), expected) < 1e-5


def test_merging_a_feature_extractor() -> None:
    extractor, x = create(features_only=True), image()
    with torch.no_grad():
        expected = extractor(x)
        for merged in (reparameterize_model(extractor), unireplknet.reparameterize(copy.deepcopy(extractor))):
            assert not any(isinstance(m, nn.BatchNorm2d) for m in merged.modules())
            for a, b in zip(merged(x), expected, strict=True):
                assert relative_error(a, b) < 1e-5


def test_a_merged_model_keeps_the_contract() -> None:
    model, x = create(), image()
    with torch.no_grad():
        expected = model.forward_intermediates(x, intermediates_only=True)
        model.reparameterize()
        for a, b in zip(model.forward_intermediates(x, intermediates_only=True), expected, strict=True):
            assert relative_error(a, b) < 1e-5
    groups = group_parameters(model, model.group_matcher())
    assert sum(len(group) for group in groups.values()) == len(list(model.parameters()))
    model.reset_classifier(3)
    model.train()(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("merged", [False, True])
def test_compile(merged: bool) -> None:
    model, x = create(), image()
    if merged:
        model.reparameterize()
    expected = model(x)
    expected.square().sum().backward()
    gradient = model.stem.conv1.weight.grad.clone()
    model.zero_grad()
    output = torch.compile(model)(x)
    output.square().sum().backward()
    assert relative_error(output, expected) < 1e-4
    assert relative_error(model.stem.conv1.weight.grad, gradient) < 1e-4


def test_other_sizes_by_name() -> None:
    model = unireplknet.create_model("unireplknet_a", depths=(1, 1, 1, 1), kernel_sizes=(3, 9, 7, 0))
    assert isinstance(model, UniRepLKNet)
    assert model(image()).shape == (2, 1000)


def test_transformers_takes_the_names_of_the_registry() -> None:
    """Its wrapper of timm's backbones: what its segmenters and detectors are built on."""
    transformers = pytest.importorskip("transformers")
    config = transformers.TimmBackboneConfig(backbone=TINY, out_indices=[0, 1, 2, 3])
    backbone = transformers.AutoBackbone.from_config(config).eval()
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        maps = backbone(x).feature_maps
    assert backbone.channels == [16, 32, 64, 128]
    assert [m.shape[1:] for m in maps] == [(16, 17, 25), (32, 9, 13), (64, 5, 7), (128, 3, 4)]
    features = timm.create_model(TINY, features_only=True).eval()
    features.load_state_dict(next(m for m in backbone.modules() if type(m) is type(features)).state_dict())
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(maps, features(x), strict=True))
