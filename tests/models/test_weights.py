"""Weights on disk, judged by the authors' layout, their reference outputs, and files as users have them."""

import argparse
import gzip
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import unireplknet
from unireplknet import UniRepLKNet, load_weights, save_weights
from unireplknet.models import WeightsError, weights

DATA = Path(__file__).parents[1] / "data"
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


def wrap_ddp(state: State) -> Any:
    return {"model": {f"module.{key}": v for key, v in state.items()}}


@pytest.mark.parametrize("wrap", [wrap_bare, wrap_authors, wrap_ema, wrap_state_dict, wrap_ddp])
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


def refused(model: nn.Module, path: Path, *reasons: str, error: type[Exception] = WeightsError) -> None:
    """Loading fails in one line that names the file and the reason, and leaves the model as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(error) as info:
        load_weights(model, path)
    message = str(info.value)
    assert "\n" not in message
    assert len(message) < 400 + 2 * len(str(path))
    for reason in (str(path), *reasons):
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
    ids="resnet convnext vit linear shallow deep wide wide-merged bottleneck plain-merged no-scale".split(),
)
def test_another_network_is_refused(other: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.save(other().state_dict(), tmp_path / "other.pth")
    refused(small(), tmp_path / "other.pth")
