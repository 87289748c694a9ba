"""Weights on disk, judged by the authors' layout, their reference outputs, and files as users have them."""

import argparse
import copy
import gzip
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import unireplknet
from tests.nn.helpers import randomise
from unireplknet import UniRepLKNet, load_weights, save_weights
from unireplknet.errors import UserError
from unireplknet.models import WeightsError, weights
from unireplknet.tasks.dense.build import build_dense
from unireplknet.tasks.detect.network import Detector
from unireplknet.tasks.segment.network import Segmenter
from unireplknet.training.settings import Model

DATA = Path(__file__).parents[1] / "fixtures"
RELEASED = json.loads(gzip.decompress((DATA / "released_keys.json.gz").read_bytes()))
SMALL: dict[str, Any] = {
    "num_classes": 10,
    "depths": (2, 1, 2, 1),
    "kernel_sizes": ((3, 3), (13,), (13, 3), (13,)),
    "dims": (8, 16, 32, 64),
}
State = dict[str, Tensor]


def relative_error(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def random_state(shapes: dict[str, list[int]]) -> State:
    """Values of any size, all different, with the dtypes of a state dict."""
    return {
        key: torch.randint(10**6, shape) if key.endswith("num_batches_tracked") else torch.randn(shape).abs() + 0.1
        for key, shape in shapes.items()
    }


def trained(model: UniRepLKNet) -> UniRepLKNet:
    """A model whose every parameter and statistic matters to its output, in eval mode."""
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point() and value.ndim <= 1:
                value.normal_(0, 0.2)
                if name.endswith(("weight", "running_var", "layer_scale")):
                    value.abs_().add_(0.5)
    return model.eval()


def small(**kwargs: Any) -> UniRepLKNet:
    return trained(UniRepLKNet(**{**SMALL, **kwargs}))


def image(chans: int = 3) -> Tensor:
    return torch.randn(2, chans, 45, 51)


@torch.no_grad()
def outputs(model: UniRepLKNet, x: Tensor) -> Tensor:
    return model.eval()(x)


@pytest.fixture(scope="module")
def reference() -> State:
    return load_file(DATA / "reference_small.safetensors")


def part(reference: State, form: str) -> State:
    return {key.removeprefix(f"{form}/"): v for key, v in reference.items() if key.startswith(f"{form}/")}


# The authors' layout


@pytest.mark.parametrize("form", ["train", "deploy"])
def test_reference_outputs(reference: State, tmp_path: Path, form: str) -> None:
    torch.save(part(reference, form), tmp_path / "reference.pth")
    with safe_open(DATA / "reference_small.safetensors", "pt") as file:
        config = {key: json.loads(value) for key, value in file.metadata().items()}
    model = load_weights(UniRepLKNet(**config), tmp_path / "reference.pth").eval()
    assert model.merged == (form == "deploy")
    with torch.no_grad():
        features, stages = model.forward_intermediates(reference["input"])
        logits = model.forward_head(features)
    for i, stage in enumerate(stages):
        assert relative_error(stage, reference[f"stage{i}"]) < 1e-5
    assert relative_error(logits, reference["logits"]) < 1e-5
    assert relative_error(logits, reference["deploy_logits"]) < 1e-5


def test_reference_merges_to_the_reference_merged_weights(reference: State, tmp_path: Path) -> None:
    torch.save(part(reference, "train"), tmp_path / "reference.pth")
    model = load_weights(UniRepLKNet(**SMALL), tmp_path / "reference.pth").reparameterize()
    merged, expected = weights.to_released(model), part(reference, "deploy")
    assert merged.keys() == expected.keys()
    for key, value in expected.items():
        assert relative_error(merged[key], value) < 1e-5, key


@pytest.mark.parametrize("layout", RELEASED)
def test_released_layout_round_trip(layout: str, tmp_path: Path) -> None:
    state = random_state(RELEASED[layout])
    torch.save(state, tmp_path / "released.pth")
    model = load_weights(unireplknet.create_model(layout.removesuffix("_deploy")), tmp_path / "released.pth")
    written = weights.to_released(model)
    assert written.keys() == state.keys()
    for key, value in state.items():
        assert written[key].dtype == value.dtype
        assert torch.equal(written[key], value), key


def test_released_layout_cannot_hold_equal_branches() -> None:
    model = UniRepLKNet(**SMALL, branches={13: [(3, 2), (3, 2)]})
    with pytest.raises(WeightsError, match="branches"):
        weights.to_released(model)


@pytest.mark.parametrize("kwargs", [{"extra": "depthwise"}, {"branches": {13: []}}])
def test_released_layout_refuses_what_it_cannot_express(kwargs: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="no name for stages"):
        weights.to_released(UniRepLKNet(**SMALL, **kwargs))


def dense_file(path: Path, merged: bool = False) -> UniRepLKNet:
    """A segmenter's checkpoint as the authors' tools write it, and the backbone in it."""
    model = small(num_classes=0, feature_norms=True)
    if merged:
        model.reparameterize()
    state = {key: value for key, value in weights.to_released(model).items() if not key.startswith("norm.")}
    assert [key for key in state if key.startswith("norm")] == [f"norm{i}.{leaf}" for i in range(4) for leaf in LEAVES]
    heads = {
        "decode_head.conv_seg.weight": torch.zeros(5, 8, 1, 1),
        "decode_head.bottleneck.bn.running_var": torch.ones(8),
        "auxiliary_head.conv_seg.weight": torch.zeros(5, 8, 1, 1),
    }
    meta = {"epoch": 3, "CLASSES": ("wall", "sky"), "hook_msgs": {"best_score": np.float64(0.5)}}
    other = {f"ema_backbone_{k.replace('.', '_')}": v + 1 for k, v in state.items()}  # as a running average leaves it
    torch.save({"meta": meta, "state_dict": {f"backbone.{k}": v for k, v in state.items()} | heads | other}, path)
    return model


LEAVES = ("weight", "bias")


@pytest.mark.parametrize("merged", [False, True])
def test_the_backbone_of_a_segmenter(merged: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected, x = dense_file(tmp_path / "upernet.pth", merged), image()
    caplog.set_level("WARNING", "unireplknet")
    features = timm.create_model(
        "unireplknet_a",
        features_only=True,
        **{k: v for k, v in SMALL.items() if k != "num_classes"},
        feature_norms=True,
    ).eval()
    load_weights(features.model, tmp_path / "upernet.pth")
    assert features.model.merged == merged
    left = "left: decode_head (2 tensors), auxiliary_head (1 tensors), ema (%d tensors)"
    assert left % sum(key.startswith("ema_") for key in weights.read_state(tmp_path / "upernet.pth")[0]) in caplog.text
    with torch.no_grad():
        for feature, other in zip(features(x), expected.forward_intermediates(x)[1], strict=True):
            assert torch.equal(feature, other)


def test_parts_that_one_side_has_not_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dense = dense_file(tmp_path / "upernet.pth")
    caplog.set_level("WARNING", "unireplknet")
    classifier = small()
    own = {key: value.clone() for key, value in classifier.head.state_dict().items()}
    load_weights(classifier, tmp_path / "upernet.pth")
    assert "the file has no head" in caplog.text
    assert "the model has no feature_norms: left 8 tensors" in caplog.text
    assert all(torch.equal(value, own[key]) for key, value in classifier.head.state_dict().items())
    x = image()
    assert torch.equal(classifier.forward_features(x), dense.forward_features(x))

    torch.save(weights.to_released(classifier), tmp_path / "classifier.pth")
    features = small(num_classes=0, feature_norms=True)
    features.prune_intermediate_layers([0, 1, 2, 3])
    load_weights(features, tmp_path / "classifier.pth")
    assert "the file has no feature_norms" in caplog.text
    assert "the model has no head: left 4 tensors" in caplog.text
    assert torch.equal(features.forward_features(x), dense.forward_features(x))


OWN: dict[str, Any] = {"kernel_sizes": (3, 7, (9, 3), 7), "branches": {9: [(5, 1), (3, 3)]}}
DENSE: dict[str, Callable[[], Any]] = {
    "upernet": lambda: Segmenter("test_unireplknet", 3, 5, width=32, auxiliary=True, **OWN),
    "unet over another backbone": lambda: Segmenter("test_convnext", 3, 5, decoder="unet", width=32),
    "faster_rcnn": lambda: Detector("test_unireplknet", 3, 5, anchors=(8, 16, 32, 64), width=16, head_width=32, **OWN),
    "retinanet": lambda: Detector("test_unireplknet", 3, 5, "retinanet", anchors=(8, 16, 32), width=16, **OWN),
}


def dense(name: str, seed: int) -> Any:
    return randomise(DENSE[name](), seed).eval()


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("name", DENSE)
def test_segmenters_and_detectors_are_read_again(name: str, merged: bool, tmp_path: Path) -> None:
    model, other = dense(name, 0), dense(name, 1)
    if merged:
        model.reparameterize()
    save_weights(model, tmp_path / "model.safetensors")
    assert load_weights(other, tmp_path) is other
    assert other.merged == model.merged
    expected, found = model.state_dict(), other.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("merged", [False, True])
def test_a_segmenter_starts_from_the_backbone_of_a_detector(
    merged: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector, segmenter = dense("faster_rcnn", 0), dense("upernet", 1)
    if merged:
        detector.reparameterize()
    save_weights(detector, tmp_path / "model.safetensors")
    caplog.set_level("WARNING", "unireplknet")
    load_weights(segmenter.backbone, tmp_path)
    assert f"left: network ({len(detector.state_dict()) - len(detector.backbone.state_dict())} tensors)" in caplog.text
    expected = detector.backbone.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in segmenter.backbone.state_dict().items())
    assert segmenter.merged == merged


def test_networks_of_timms_start_from_its_files_and_from_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "unireplknet")
    classifier = randomise(timm.create_model("test_convnext", num_classes=7), 0)
    save_file(classifier.state_dict(), tmp_path / "timm.safetensors")
    segmenter = Segmenter("test_convnext", 3, 5, decoder="unet", width=32)
    weights.load_other_weights(segmenter.backbone, tmp_path / "timm.safetensors")
    assert "the file has more than the model; left: head.fc.bias, head.fc.weight, head.norm" in caplog.text
    save_weights(randomise(segmenter, 1), tmp_path / "model.safetensors")
    detector = Detector("test_convnext", 3, 5, anchors=(8, 16, 32, 64), width=16, head_width=32)
    weights.load_other_weights(detector.backbone, tmp_path)
    assert "only the backbone is taken from the file; left: network" in caplog.text
    expected = segmenter.backbone.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in detector.backbone.state_dict().items())
    model = Model("test_convnext", weights=str(tmp_path / "timm.safetensors"))
    found = build_dense(model, ["a", "b"], small_segmenter, "").backbone.state_dict()
    assert all(torch.equal(value, classifier.state_dict()[key]) for key, value in found.items())


def small_segmenter(**kwargs: Any) -> Segmenter:
    return Segmenter("test_convnext", 3, 2, decoder="unet", width=32, **kwargs)


def test_weights_of_another_network_do_not_fit_one_of_timms(tmp_path: Path) -> None:
    save_weights(dense("upernet", 0), tmp_path / "model.safetensors")
    model = Model("test_convnext", weights=str(tmp_path))
    with pytest.raises(UserError, match=r"model.safetensors: does not fit the model: lacks \d+ \(stem.0.weight"):
        build_dense(model, ["a", "b"], small_segmenter, "")


# Files as users have them


def wrap_bare(state: State) -> Any:
    return state


def wrap_authors(state: State) -> Any:
    args = argparse.Namespace(model="unireplknet_a", lr=4e-3, betas=[0.9, 0.999], resume=None)
    return {"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3, "scaler": {}, "args": args}


def wrap_ema(state: State) -> Any:
    return {"model": {key: v + 1 for key, v in state.items()}, "model_ema": state, "args": argparse.Namespace(x=1)}


def wrap_state_dict(state: State) -> Any:
    return {"state_dict": state, "epoch": 3}


def wrap_averaged(state: State) -> Any:
    """torch.optim.swa_utils.AveragedModel."""
    return {"n_averaged": torch.tensor(3)} | {f"module.{key}": value for key, value in state.items()}


def wrap_net(state: State) -> Any:
    return {"net": state, "acc": 91.5, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}}


def wrap_params_ema(state: State) -> Any:
    return {"params": {key: v + 1 for key, v in state.items()}, "params_ema": state}


def wrap_nested(state: State) -> Any:
    return {"checkpoint": {"weights of mine": state}, "epoch": 3}


def wrap_ddp(state: State) -> Any:
    return {"model": {f"module.{key}": v for key, v in state.items()}}


@pytest.mark.parametrize(
    "wrap",
    [
        wrap_bare,
        wrap_authors,
        wrap_ema,
        wrap_state_dict,
        wrap_ddp,
        wrap_averaged,
        wrap_net,
        wrap_params_ema,
        wrap_nested,
    ],
)
@pytest.mark.parametrize("released", [True, False], ids=["released", "ours"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_wrapped_files(wrap: Callable[[State], Any], released: bool, legacy: bool, tmp_path: Path) -> None:
    model, x = small(), image()
    state = weights.to_released(model) if released else model.state_dict()
    torch.save(wrap(state), tmp_path / "checkpoint.pth", _use_new_zipfile_serialization=not legacy)
    loaded = load_weights(UniRepLKNet(**SMALL), tmp_path / "checkpoint.pth")
    assert torch.equal(outputs(loaded, x), outputs(model, x))


def test_ema_can_be_left_aside(tmp_path: Path) -> None:
    model, ema, x = small(), small(), image()
    torch.save({"model": model.state_dict(), "model_ema": ema.state_dict()}, tmp_path / "checkpoint.pth")
    loaded = load_weights(UniRepLKNet(**SMALL), tmp_path / "checkpoint.pth", use_ema=False)
    assert torch.equal(outputs(loaded, x), outputs(model, x))


def test_several_sets_of_weights_under_unknown_names_are_refused(tmp_path: Path) -> None:
    model, path = small(), tmp_path / "two.pth"
    torch.save({"left": model.state_dict(), "right": model.state_dict()}, path)
    refused(model, path, "holds several sets of weights (left, right)")


def test_norms_without_a_count_of_batches_keep_the_models(tmp_path: Path) -> None:
    model, x = small(), image()
    state = {key: value for key, value in model.state_dict().items() if "num_batches_tracked" not in key}
    torch.save(state, tmp_path / "frozen.pth")
    loaded = load_weights(UniRepLKNet(**SMALL), tmp_path / "frozen.pth")
    assert torch.equal(outputs(loaded, x), outputs(model, x))


def test_the_released_layout_through_timm(tmp_path: Path) -> None:
    model, x = timm.create_model("test_unireplknet").eval(), image()
    torch.save(weights.to_released(model), tmp_path / "released.pth")
    loaded = timm.create_model("test_unireplknet", checkpoint_path=tmp_path / "released.pth").eval()
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("kind", ["getter", "hook"])
def test_feature_extractors_take_weights_or_say_how(kind: str, tmp_path: Path) -> None:
    model, x = timm.create_model("test_unireplknet").eval(), image()
    save_weights(model, tmp_path / "model.safetensors")
    features = timm.create_model("test_unireplknet", features_only=True, feature_cls=kind).eval()
    if kind == "getter":
        loaded = load_weights(features, tmp_path / "model.safetensors")
        assert torch.equal(loaded(x)[-1], model.forward_features(x))
    else:
        refused(features, tmp_path / "model.safetensors", "pretrained_cfg_overlay", with_path=False)


@pytest.mark.parametrize("content", [b"", b"e", b"epoch 101\n", b"101 102\n", b"\x80\x04K\x05.", b"PK\x03\x04"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files_are_no_weights(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"notes{suffix}"
    path.write_bytes(content)
    refused(small(), path, "damaged or not a weights file: ")
    with pytest.raises(WeightsError, match=r": [A-Za-z]+ .*$"):  # words, not the unpickler's stack
        load_weights(small(), path)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("source", ["file", "folder"])
def test_safetensors_round_trip(merged: bool, source: str, tmp_path: Path) -> None:
    model, x = small(), image()
    if merged:
        model.reparameterize()
    save_weights(model, tmp_path / "model.safetensors")
    loaded = load_weights(UniRepLKNet(**SMALL), tmp_path / "model.safetensors" if source == "file" else tmp_path)
    assert loaded.merged == merged
    assert torch.equal(outputs(loaded, x), outputs(model, x))


def test_half_precision_weights_keep_the_model_dtype(tmp_path: Path) -> None:
    model = small()
    torch.save({key: v.half() if v.is_floating_point() else v for key, v in model.state_dict().items()}, tmp_path / "h")
    loaded = load_weights(UniRepLKNet(**SMALL), tmp_path / "h")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.head.fc.weight, model.head.fc.weight.half().float())


# Files that must be refused, in one line


class Code:
    """Unpickling it would create a file, unless nothing is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def refused(
    model: nn.Module, path: Path, *reasons: str, error: type[Exception] = WeightsError, with_path: bool = True
) -> None:
    """Loading fails in one line that names the file and the reason, and leaves the model as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(error) as info:
        load_weights(model, path)
    message = str(info.value)
    assert "\n" not in message
    assert len(message) < 400 + 2 * len(str(path))
    for reason in (*([str(path)] if with_path else []), *reasons):
        assert reason in message
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def bytes_of_pth(tmp_path: Path) -> bytes:
    torch.save(small().state_dict(), tmp_path / "whole.pth")
    return (tmp_path / "whole.pth").read_bytes()


def bytes_of_safetensors(tmp_path: Path) -> bytes:
    save_weights(small(), tmp_path / "whole.safetensors")
    return (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_is_refused_and_never_run(legacy: bool, tmp_path: Path) -> None:
    side_effect = tmp_path / "executed"
    checkpoint = {"model": small().state_dict(), "args": Code(side_effect)}
    torch.save(checkpoint, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
    refused(small(), tmp_path / "evil.pth", "mkdir", "could run code")
    assert not side_effect.exists()


def test_plain_pickle_with_code_is_refused(tmp_path: Path) -> None:
    side_effect = tmp_path / "executed"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Code(side_effect)}))
    refused(small(), tmp_path / "evil.pth")
    assert not side_effect.exists()


def test_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "model.pth")
    refused(small(), tmp_path / "model.pth", "UniRepLKNet", "could run code")


@pytest.mark.parametrize(
    "content",
    [
        {"head.fc.weight": 1.0},
        {"state_dict": {"head.fc.weight": "text"}},
        {"model": None},
        {"model": torch.zeros(2)},
        {1: torch.zeros(2)},
        {},
        [torch.zeros(2)],
        torch.zeros(2),
        None,
        3,
    ],
    ids=repr,
)
def test_files_without_a_dict_of_tensors_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    refused(small(), tmp_path / "odd.pth", "tensor")


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99, 0.9999])
@pytest.mark.parametrize("content", [bytes_of_pth, bytes_of_safetensors])
def test_truncated_files_are_refused(content: Callable[[Path], bytes], kept: float, tmp_path: Path) -> None:
    data = content(tmp_path)
    path = tmp_path / f"cut{'.pth' if content is bytes_of_pth else '.safetensors'}"
    path.write_bytes(data[: int(kept * len(data))])
    refused(small(), path, "damaged or not a weights file")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
@pytest.mark.parametrize("text", ["these are no weights\n", "<!DOCTYPE html><html>", "version https://git-lfs", "{}"])
def test_text_files_are_refused(text: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_text(text)
    refused(small(), path, "damaged or not a weights file")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_any_bytes_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"noise{suffix}"
    model = UniRepLKNet(**SMALL)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary(max_size=64) | st.binary(max_size=24).map(lambda tail: b"\x80\x02" + tail))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        refused(model, path)

    check()


def test_a_safetensors_file_under_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "renamed.pth"
    path.write_bytes(bytes_of_safetensors(tmp_path))
    refused(small(), path, "damaged or not a weights file")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    refused(small(), tmp_path / "absent.pth", error=FileNotFoundError)
    refused(small(), tmp_path, "model.safetensors", error=FileNotFoundError)


@pytest.mark.parametrize("merged", [False, True])
def test_missing_and_extra_keys(merged: bool, tmp_path: Path) -> None:
    state = small().reparameterize().state_dict() if merged else small().state_dict()
    torch.save({key: v for key, v in state.items() if key != "stem.conv2.bias"}, tmp_path / "missing.pth")
    refused(small(), tmp_path / "missing.pth", "lacks 1 (stem.conv2.bias)")
    torch.save({**state, "neck.weight": torch.zeros(3)}, tmp_path / "extra.pth")
    refused(small(), tmp_path / "extra.pth", "unknown 1 (neck.weight)")


@pytest.mark.parametrize(
    "other",
    [
        lambda: timm.create_model("test_resnet"),
        lambda: timm.create_model("test_convnext"),
        lambda: timm.create_model("test_vit"),
        lambda: nn.Linear(3, 4),
        lambda: small(depths=(1, 1, 1, 1), kernel_sizes=(3, 13, 13, 13)),
        lambda: small(depths=(2, 1, 4, 1), kernel_sizes=(3, 13, 13, 13)),
        lambda: small(dims=(16, 32, 64, 128)),
        lambda: small(dims=(16, 32, 64, 128)).reparameterize(),
        lambda: small(extra="bottleneck"),
        lambda: small(extra="none").reparameterize(),
        lambda: small(layer_scale_init=None),
    ],
    ids=[
        "resnet",
        "convnext",
        "vit",
        "linear",
        "shallow",
        "deep",
        "wide",
        "wide-merged",
        "bottleneck",
        "plain-merged",
        "no-scale",
    ],
)
def test_another_network_is_refused(other: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.save(other().state_dict(), tmp_path / "other.pth")
    refused(small(), tmp_path / "other.pth")


# Weights that must be adapted


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("classes", [1, 7, 0])
def test_head_adapts_to_the_class_count(classes: int, merged: bool, tmp_path: Path) -> None:
    model, x = small(), image()
    torch.save(weights.to_released(model.reparameterize() if merged else model), tmp_path / "ten.pth")
    other = small(num_classes=classes)
    classifier = {key: value.clone() for key, value in other.get_classifier().state_dict().items()}
    load_weights(other, tmp_path / "ten.pth")
    assert outputs(other, x).shape == (2, classes or 64)
    assert torch.equal(
        other.forward_head(other.forward_features(x), True), model.forward_head(model.forward_features(x), True)
    )
    for key, value in other.get_classifier().state_dict().items():
        assert torch.equal(value, classifier[key])


def test_a_file_without_classifier_leaves_the_models_own(tmp_path: Path) -> None:
    model, other, x = small(num_classes=0), small(), image()
    save_weights(model, tmp_path / "features.safetensors")
    classifier = other.get_classifier().weight.clone()
    load_weights(other, tmp_path / "features.safetensors")
    assert torch.equal(other.get_classifier().weight, classifier)
    assert torch.equal(other.forward_features(x), model.forward_features(x))


@pytest.mark.parametrize("merged", [False, True])
def test_stem_adapts_to_one_channel(merged: bool, tmp_path: Path) -> None:
    model, x = small(), image(1)
    save_weights(model.reparameterize() if merged else model, tmp_path / "rgb.safetensors")
    grey = load_weights(small(in_chans=1), tmp_path / "rgb.safetensors")
    expected = outputs(model, x.expand(-1, 3, -1, -1))
    assert relative_error(outputs(grey, x), expected) < 1e-5


@pytest.mark.parametrize("chans", [2, 4, 7])
def test_stem_adapts_to_more_or_fewer_channels(chans: int, tmp_path: Path) -> None:
    model = small()
    save_weights(model, tmp_path / "rgb.safetensors")
    other = load_weights(small(in_chans=chans), tmp_path / "rgb.safetensors")
    weight, expected = other.stem.conv1.weight, model.stem.conv1.weight
    assert weight.shape[1] == chans
    for i in range(chans):
        torch.testing.assert_close(weight[:, i], expected[:, i % 3] * 3 / chans)


@pytest.mark.parametrize("chans", [1, 3])
def test_stem_adapts_from_other_channel_counts(chans: int, tmp_path: Path) -> None:
    model = small(in_chans=5)
    save_weights(model, tmp_path / "five.safetensors")
    x = image(chans)
    assert outputs(load_weights(small(in_chans=chans), tmp_path / "five.safetensors"), x).isfinite().all()


# A trained kernel in a larger one

OLD = [(5, 1), (7, 2), (3, 3), (3, 4), (3, 5)]
GROWN = {"kernel_sizes": ((5, 3), (17,), (15, 3), (21,))}


def grown(**kwargs: Any) -> UniRepLKNet:
    return small(**{**GROWN, **kwargs})


@pytest.mark.parametrize("released", [True, False], ids=["released", "ours"])
def test_a_merged_kernel_grows(released: bool, tmp_path: Path) -> None:
    model, x = small().reparameterize(), image()
    path = tmp_path / ("merged.pth" if released else "merged.safetensors")
    torch.save(weights.to_released(model), path) if released else save_weights(model, path)
    larger = load_weights(grown(), path)
    assert larger.merged
    sizes = [m.kernel_size[0] for m in larger.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert sizes == [5, 3, 17, 15, 3, 21]
    assert relative_error(outputs(larger, x), outputs(model, x)) < 1e-5


@pytest.mark.parametrize("released", [True, False], ids=["released", "ours"])
@pytest.mark.parametrize(
    "new", [[], [(3, 8)], [(3, 2), (3, 2), (5, 1)], [(1, 1)]], ids=["none", "one", "equal to old", "1x1"]
)
def test_a_trained_kernel_grows(new: list[tuple[int, int]], released: bool, tmp_path: Path) -> None:
    model, x = small(), image()
    path = tmp_path / ("trained.pth" if released else "trained.safetensors")
    torch.save(weights.to_released(model), path) if released else save_weights(model, path)
    branches = [*new[:1], *OLD, *new[1:]] if (3, 8) not in new else [*OLD, (3, 7)]
    larger = grown(branches=dict.fromkeys((15, 17, 21), branches))
    load_weights(larger, path)
    assert not larger.merged
    assert relative_error(outputs(larger, x), outputs(model, x)) < 1e-5
    old, block = model.stages[1].blocks[0].dwconv, larger.stages[1].blocks[0].dwconv
    assert block.pairs == branches
    assert torch.equal(block.main.weight[:, :, 2:-2, 2:-2], old.main.weight)
    assert block.main.weight.abs().sum().item() == pytest.approx(old.main.weight.abs().sum().item())
    # New branches take part in training from the first step on.
    larger(x).square().sum().backward()
    assert all(branch.bn.weight.grad.abs().sum() > 0 for branch in block.branches)
    # The merge of the grown network is that of the old one.
    assert relative_error(outputs(larger.reparameterize(), x), outputs(model, x)) < 1e-5


def test_growth_keeps_old_branch_statistics(tmp_path: Path) -> None:
    model = small()
    save_weights(model, tmp_path / "trained.safetensors")
    larger = load_weights(
        small(branches={13: OLD, 15: [*OLD, (3, 7)]}, kernel_sizes=((3, 3), 15, (13, 3), 13)),
        tmp_path / "trained.safetensors",
    )
    old, new = model.stages[1].blocks[0].dwconv, larger.stages[1].blocks[0].dwconv
    for i in range(6):
        for key, value in old.branches[i].bn.state_dict().items():
            assert torch.equal(new.branches[i].bn.state_dict()[key], value)
    assert not new.branches[6].bn.weight.any()
    assert not new.branches[6].bn.bias.any()


@pytest.mark.parametrize("form", ["training", "merged"])
def test_kernels_never_shrink(form: str, tmp_path: Path) -> None:
    model = small() if form == "training" else small().reparameterize()
    save_weights(model, tmp_path / "large.safetensors")
    smaller = small(kernel_sizes=((3, 3), (9,), (13, 3), (13,)))
    refused(smaller, tmp_path / "large.safetensors", "stages.1.blocks.0.dwconv", "13", "9", "never shrink")


@pytest.mark.parametrize("released", [True, False], ids=["released", "ours"])
@pytest.mark.parametrize(
    ("size", "branches"),
    [(13, [(5, 1)]), (13, [*OLD, (3, 6)]), (15, [(5, 1), (3, 7)])],
    ids=["fewer", "more", "larger"],
)
def test_other_branches_are_refused(size: int, branches: list[tuple[int, int]], released: bool, tmp_path: Path) -> None:
    model, path = small(), tmp_path / ("trained.pth" if released else "trained.safetensors")
    torch.save(weights.to_released(model), path) if released else save_weights(model, path)
    kernel_sizes = ((3, 3), size, (13, 3), 13)
    other = small(kernel_sizes=kernel_sizes, branches={13: OLD, size: branches})
    refused(other, path, "branches", f"{OLD}", f"{branches}")
    with pytest.raises(WeightsError) as info:
        load_weights(other, path)
    # The message says how to build a model that the file fits.
    advice = str(info.value).partition("branches={")[2].rpartition("}")[0]
    built = small(
        kernel_sizes=kernel_sizes,
        branches={13: OLD, size: json.loads(advice.partition(": ")[2].replace("(", "[").replace(")", "]"))},
    )
    x = image()
    assert relative_error(outputs(load_weights(built, path), x), outputs(model, x)) < 1e-5


def test_branch_order_does_not_matter(tmp_path: Path) -> None:
    model, x = small(), image()
    save_weights(model, tmp_path / "trained.safetensors")
    other = load_weights(small(branches={13: OLD[::-1]}), tmp_path / "trained.safetensors")
    assert relative_error(outputs(other, x), outputs(model, x)) < 1e-5


def test_equal_branches_keep_their_values(tmp_path: Path) -> None:
    model, x = small(branches={13: [(3, 2), (3, 2), (5, 1)]}), image()
    save_weights(model, tmp_path / "trained.safetensors")
    other = load_weights(small(branches={13: [(3, 2), (5, 1), (3, 2)]}), tmp_path / "trained.safetensors")
    assert relative_error(outputs(other, x), outputs(model, x)) < 1e-5


def test_growth_from_a_bare_state_dict_says_what_is_missing(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "bare.pth")
    refused(grown(), tmp_path / "bare.pth", "save_weights")


def test_a_merged_file_merges_the_model(tmp_path: Path) -> None:
    model, x = small().reparameterize(), image()
    save_weights(model, tmp_path / "merged.safetensors")
    loaded = load_weights(UniRepLKNet(**SMALL).train(), tmp_path / "merged.safetensors")
    assert loaded.merged
    assert loaded.training
    assert torch.equal(outputs(loaded, x), outputs(model, x))


def test_a_training_file_into_a_merged_model_is_refused(tmp_path: Path) -> None:
    save_weights(small(), tmp_path / "training.safetensors")
    refused(small().reparameterize(), tmp_path / "training.safetensors", "training form", "merged")


# The Hub


def hub(monkeypatch: pytest.MonkeyPatch, *files: Path) -> list[tuple[str, str]]:
    """A Hub that serves the given files under their names."""
    requests = []

    def download(repo_id: str, filename: str, **kwargs: Any) -> str:
        requests.append((repo_id, filename))
        for file in files:
            if file.name == filename:
                return str(file)
        raise LocalEntryNotFoundError(f"404: no {filename} in {repo_id}")

    for module in ("unireplknet.models.weights", "timm.models._hub"):
        monkeypatch.setattr(f"{module}.hf_hub_download", download)
    return requests


def test_hub_id_with_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, x = small(), image()
    torch.save(weights.to_released(model), tmp_path / "mine.pth")
    requests = hub(monkeypatch, tmp_path / "mine.pth")
    loaded = load_weights(UniRepLKNet(**SMALL), "someone/some-repo/mine.pth")
    assert requests == [("someone/some-repo", "mine.pth")]
    assert torch.equal(outputs(loaded, x), outputs(model, x))


def test_hub_id_alone_means_model_safetensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, x = small(), image()
    save_weights(model, tmp_path / "model.safetensors")
    requests = hub(monkeypatch, tmp_path / "model.safetensors")
    loaded = load_weights(UniRepLKNet(**SMALL), "someone/some.repo")
    assert requests == [("someone/some.repo", "model.safetensors")]
    assert torch.equal(outputs(loaded, x), outputs(model, x))


def test_hub_failure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch)
    with pytest.raises(WeightsError, match=r"^someone/repo/x\.pth is neither a file here nor .*404.*$"):
        load_weights(small(), "someone/repo/x.pth")


def test_a_local_file_goes_before_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    requests = hub(monkeypatch)
    (tmp_path / "runs").mkdir()
    save_weights(small(), tmp_path / "runs" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    load_weights(UniRepLKNet(**SMALL), "runs/model.safetensors")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_weights(UniRepLKNet(**SMALL), "runs/typo.safetensors")
    assert requests == []


A_FILE = "unireplknet_a_in1k_224_acc77.03.pth"


@pytest.fixture(scope="module")
def trained_a() -> UniRepLKNet:
    return trained(unireplknet.create_model("unireplknet_a"))


@pytest.mark.parametrize("kwargs", [{}, {"in_chans": 1}, {"in_chans": 4}, {"num_classes": 5}, {"num_classes": 0}])
@pytest.mark.parametrize(
    ("create", "wrap"),
    [(timm.create_model, wrap_bare), (unireplknet.create_model, wrap_authors)],
    ids=["bare", "wrapped"],
)
def test_pretrained_tags(
    create: Callable[..., UniRepLKNet],
    wrap: Callable[[State], Any],
    kwargs: dict[str, Any],
    trained_a: UniRepLKNet,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Released files load whether bare or wrapped: nobody has opened them here."""
    torch.save(wrap(weights.to_released(trained_a)), tmp_path / A_FILE)
    requests = hub(monkeypatch, tmp_path / A_FILE)
    loaded = create("unireplknet_a.in1k", pretrained=True, **kwargs).eval()
    assert requests[-1] == ("DingXiaoH/UniRepLKNet", A_FILE)
    own, released = loaded.state_dict(), trained_a.state_dict()
    changed = {"num_classes": "head.fc", "in_chans": "stem.conv1.weight"}.get(next(iter(kwargs), ""), "nothing")
    for key, value in own.items():
        assert key.startswith(changed) or torch.equal(value, released[key]), key
    if kwargs == {"in_chans": 4}:
        torch.testing.assert_close(own[changed], released[changed][:, [0, 1, 2, 0]] * 3 / 4)
    if kwargs == {"in_chans": 1}:
        torch.testing.assert_close(own[changed], released[changed].sum(1, keepdim=True))


def test_pretrained_features(trained_a: UniRepLKNet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save(weights.to_released(trained_a), tmp_path / A_FILE)
    hub(monkeypatch, tmp_path / A_FILE)
    features = timm.create_model("unireplknet_a.in1k", pretrained=True, features_only=True).eval()
    x = image()
    with torch.no_grad():
        for feature, expected in zip(features(x), trained_a.forward_intermediates(x)[1], strict=True):
            assert torch.equal(feature, expected)


@pytest.mark.parametrize("merged", [False, True])
def test_timm_loads_a_local_file(merged: bool, trained_a: UniRepLKNet, tmp_path: Path) -> None:
    model, path, x = copy.deepcopy(trained_a), tmp_path / "finetuned.pth", image()
    torch.save({"model": weights.to_released(model.reparameterize() if merged else model)}, path)
    loaded = timm.create_model("unireplknet_a", pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    assert torch.equal(outputs(loaded, x), outputs(model, x))


def test_timm_refuses_a_wrong_file(trained_a: UniRepLKNet, tmp_path: Path) -> None:
    torch.save(weights.to_released(trained_a), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"^stem.conv1.weight is \(20, 3, 3, 3\), the model has \(24, 3, 3, 3\)$"):
        timm.create_model("unireplknet_f", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "a.pth")})


# save_pretrained and from_pretrained


def published(model: UniRepLKNet, folder: Path) -> dict[str, Any]:
    """Save a model; its configuration as other programs read it."""
    model.save_pretrained(folder)
    assert {"config.json", "model.safetensors"} <= {file.name for file in folder.iterdir()}
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"branches": {13: [(3, 2), (3, 2), (5, 1)]}},
        {"in_chans": 1, "num_classes": 0, "stem_stride": 1, "extra": "pointwise", "layer_scale_init": None},
        {"drop_path_rate": 0.3, "drop_rate": 0.1, "global_pool": "max", "head_init_scale": 0.1},
        {"kernel_sizes": (3, 0, (13, 5), 21), "device": torch.device("cpu"), "dtype": torch.float32},
    ],
    ids=["plain", "branches", "switches", "rates", "kernels"],
)
def test_save_and_from_pretrained(kwargs: dict[str, Any], merged: bool, tmp_path: Path) -> None:
    model, x = small(**kwargs), image(kwargs.get("in_chans", 3))
    published(model.reparameterize() if merged else model, tmp_path)
    restored = UniRepLKNet.from_pretrained(tmp_path)
    assert restored.merged == merged
    assert not restored.training
    assert repr(restored) == repr(model)
    assert torch.equal(restored(x), model(x))


def test_from_pretrained_takes_no_default_branches_for_saved_ones(tmp_path: Path) -> None:
    """JSON turns the kernel sizes that are keys of ``branches`` into strings."""
    config = published(small(branches={13: [(3, 2), (3, 2)]}), tmp_path)
    assert config["branches"] == {"13": [[3, 2], [3, 2]]}
    restored = UniRepLKNet.from_pretrained(tmp_path)
    assert [m.pairs for m in restored.modules() if hasattr(m, "pairs")] == [[(3, 2), (3, 2)]] * 3


@pytest.mark.parametrize(("classes", "pool"), [(4, None), (0, None), (4, "max"), (4, ""), (0, "")])
def test_from_pretrained_follows_reset_classifier(classes: int, pool: str | None, tmp_path: Path) -> None:
    model, x = small(), image()
    model.reset_classifier(classes, pool)
    published(model, tmp_path)
    restored = UniRepLKNet.from_pretrained(tmp_path)
    assert restored.num_classes == classes
    assert torch.equal(restored(x), model(x))


def test_from_pretrained_after_timm(tmp_path: Path) -> None:
    model = trained(timm.create_model("test_unireplknet", num_classes=3, drop_path_rate=0.1))
    published(model, tmp_path)
    x = image()
    assert torch.equal(UniRepLKNet.from_pretrained(tmp_path)(x), model(x))
    loaded = load_weights(timm.create_model("test_unireplknet", num_classes=3), tmp_path)
    assert torch.equal(outputs(loaded, x), outputs(model, x))


def test_from_pretrained_with_other_arguments(tmp_path: Path) -> None:
    model, x = small(), image(1)
    published(model, tmp_path)
    restored = UniRepLKNet.from_pretrained(tmp_path, num_classes=2, in_chans=1, dtype=torch.float64)
    assert restored(x.double()).shape == (2, 2)
    expected = model.double().forward_features(x.double().expand(-1, 3, -1, -1))
    assert relative_error(restored.forward_features(x.double()), expected) < 1e-6


def test_saving_twice_describes_the_last(tmp_path: Path) -> None:
    published(small(), tmp_path)
    model, x = small(num_classes=3, dims=(4, 8, 16, 32)), image()
    published(model, tmp_path)
    assert torch.equal(UniRepLKNet.from_pretrained(tmp_path)(x), model(x))


def test_configuration_names_no_device(tmp_path: Path) -> None:
    config = published(small(device="cpu", dtype=torch.float32), tmp_path)
    assert "cpu" not in config.values()
    assert config["dims"] == list(SMALL["dims"])


def test_copies_keep_their_configuration(tmp_path: Path) -> None:
    model, x = small(), image()
    published(pickle.loads(pickle.dumps(copy.deepcopy(model))), tmp_path)
    assert torch.equal(UniRepLKNet.from_pretrained(tmp_path)(x), model(x))


def test_from_pretrained_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, x = small(), image()
    published(model, tmp_path)
    requests = []

    def download(repo_id: str, filename: str, revision: str | None = None, **kwargs: Any) -> str:
        requests.append((repo_id, filename, revision))
        return str(tmp_path / filename)

    for module in ("huggingface_hub.hub_mixin", "unireplknet.models.backbone"):
        monkeypatch.setattr(f"{module}.hf_hub_download", download)
    restored = UniRepLKNet.from_pretrained("someone/repo", revision="v2")
    assert requests == [("someone/repo", "config.json", "v2"), ("someone/repo", "model.safetensors", "v2")]
    assert torch.equal(restored(x), model(x))


def test_from_pretrained_refuses_a_folder_without_weights(tmp_path: Path) -> None:
    published(small(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        UniRepLKNet.from_pretrained(tmp_path)


def test_a_file_of_weights_has_the_users_rights_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    model = small()
    (tmp_path / "note").write_text("x")
    contents = set()
    for i in range(8):  # the library orders metadata at random
        save_weights(model, tmp_path / f"{i}.safetensors")
        contents.add((tmp_path / f"{i}.safetensors").read_bytes())
    assert len(contents) == 1
    assert (tmp_path / "0.safetensors").stat().st_mode == (tmp_path / "note").stat().st_mode
