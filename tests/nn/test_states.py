"""The network after what other libraries do to it: converted norms, adapters, traces, transforms."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import unireplknet
from unireplknet import UniRepLKNet
from unireplknet.nn.dilated_reparam import ReparamBranch
from unireplknet.nn.layers import DepthwiseConv2d, GlobalResponseNorm

from .helpers import randomise


def network(**kwargs: object) -> UniRepLKNet:
    shape = {"depths": (1, 1, 2, 1), "dims": (8, 16, 16, 16), "kernel_sizes": (3, 7, (9, 3), 7)}
    model = UniRepLKNet(num_classes=5, layer_scale_init=0.5, **shape, **kwargs)
    return randomise(model.double()).eval()


def images(size: tuple[int, int] = (64, 48)) -> Tensor:
    return torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "BatchNorm" in type(module).__name__]


# --- merging what others have changed

NORMS = {
    "SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
    "frozen": freeze_batch_norm_2d,
    "averaged": lambda model: torch.optim.swa_utils.AveragedModel(model).module,
    "copied": copy.deepcopy,
}


@pytest.mark.parametrize("change", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("extra", ["se", "bottleneck"])
def test_norms_of_every_kind_are_merged(change: Callable[[nn.Module], nn.Module], extra: str, tmp_path) -> None:
    model = change(network(extra=extra)).eval()
    expected = model(images())
    model.reparameterize()
    assert model.merged
    assert not norms(model)
    torch.testing.assert_close(model(images()), expected, rtol=1e-10, atol=1e-10)
    unireplknet.save_weights(model, tmp_path / "merged.safetensors")
    again = unireplknet.load_weights(network(extra=extra), tmp_path / "merged.safetensors")
    torch.testing.assert_close(again(images()), expected, rtol=1e-10, atol=1e-10)


COMPUTED = {
    "parametrized weight norm": parametrizations.weight_norm,
    "parametrized spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight norm": weight_norm,
    "spectral norm": spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("change", COMPUTED.values(), ids=COMPUTED)
def test_computed_weights_are_merged_as_they_are(change: Callable[[nn.Module], nn.Module]) -> None:
    model = network()
    for layer in [m for m in model.modules() if isinstance(m, nn.Linear | DepthwiseConv2d)]:
        if change is not parametrizations.orthogonal or isinstance(layer, nn.Linear):
            change(layer)
    model.eval()
    expected = model(images())
    model.reparameterize()
    assert model.merged
    torch.testing.assert_close(model(images()), expected, rtol=1e-10, atol=1e-10)


class Adapter(nn.Module):
    """A layer with a low-rank detour, as adapters have it: the name of the weight is still there."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.detour = nn.Linear(layer.in_features, layer.out_features, bias=False).double()

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.detour(x)


def untracked(norm: nn.Module) -> nn.Module:
    norm = nn.BatchNorm2d(norm.num_features, track_running_stats=False)
    return norm.double()


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        ("stages.2.blocks.1.pwconv2", Adapter, "stages.2.blocks.1.pwconv2 is a .*Adapter, expected a Linear"),
        ("stages.1.blocks.0.dwconv.branches.2.conv", nn.Sequential, "branches.2.conv is a .*Sequential"),
        ("stages.3.blocks.0.norm", untracked, "stages.3.blocks.0.norm has no running statistics"),
        ("stages.2.blocks.0.norm2", lambda norm: nn.GroupNorm(1, 16).double(), "GroupNorm, expected a BatchNorm"),
    ],
)
def test_what_cannot_be_merged_is_named_and_nothing_is_half_done(
    place: str, change: Callable[[nn.Module], nn.Module], message: str
) -> None:
    model = network()
    model.set_submodule(place, change(model.get_submodule(place)))
    expected, state = model(images()), list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        model.reparameterize()
    assert list(model.state_dict()) == state
    torch.testing.assert_close(model(images()), expected, rtol=0, atol=0)


# --- followed calls


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.* is deprecated")
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_a_trace_is_right_at_every_size(merged: bool, with_gradients: bool) -> None:
    model = network()
    if merged:
        model.reparameterize()
    with torch.set_grad_enabled(with_gradients):
        traced = torch.jit.trace(model, images((40, 40)))
        for size in ((40, 40), (64, 48), (33, 97), (16, 16)):
            torch.testing.assert_close(traced(images(size)), model(images(size)), rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore")  # the exporter is deprecated as a whole
def test_the_legacy_exporter_needs_no_no_grad() -> None:
    ort = pytest.importorskip("onnxruntime")
    model, file = network().float(), io.BytesIO()
    torch.onnx.export(model, (images().float(),), file, dynamo=False, opset_version=17, input_names=["x"])
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": images().float().numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(images().float()), rtol=1e-3, atol=1e-4)


def composed(model: nn.Module) -> nn.Module:
    """The same network whose modules all run, because each has a hook."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, ReparamBranch) or not list(module.children()):
            module.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("mode", ["training", "eval", "merged"])
def test_second_derivatives_are_those_of_the_modules(mode: str) -> None:
    model = network().train(mode == "training")
    if mode == "merged":
        model.reparameterize()
    results = []
    for net in (model, composed(model)):
        x = images().requires_grad_()
        (first,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        first.square().sum().backward()
        results.append([x.grad, *(p.grad for p in net.parameters())])
    scale = max(float(g.abs().max()) for g in results[1] if g is not None)
    for ours, theirs in zip(*results, strict=True):
        if theirs is not None and ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12 * scale)
        else:
            assert ours is None
            assert theirs is None


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")  # torch.func's own
@pytest.mark.parametrize("mode", ["eval", "merged"])
def test_transforms_of_torch_func(mode: str) -> None:
    model = network()
    if mode == "merged":
        model.reparameterize()
    x, parameters = images(), {name: p.detach() for name, p in model.named_parameters()}
    loss = lambda p, x: functional_call(model, p, (x,)).square().sum()  # noqa: E731
    leaf = x.clone().requires_grad_()
    model(leaf).square().sum().backward()
    transformed = grad(loss)(parameters, x)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(transformed[name], parameter.grad, rtol=1e-9, atol=1e-9)
    rows = jacrev(lambda z: model(z).sum(0))(x)
    tangent = torch.ones_like(x)
    _, forward = jvp(lambda z: model(z).sum(0), (x,), (tangent,))
    torch.testing.assert_close(rows.flatten(1).sum(1), forward, rtol=1e-9, atol=1e-9)


# --- output stride


@pytest.mark.parametrize("output_stride", [4, 8, 16])
@pytest.mark.parametrize("form", ["eval", "merged"])
@pytest.mark.parametrize("extra", ["none", "depthwise"])
def test_a_smaller_output_stride_computes_what_lies_between(output_stride: int, form: str, extra: str) -> None:
    """Without what looks at whole maps (SE, GRN), the features of the ordinary network are among the denser ones."""
    plain, dense = network(extra=extra), network(extra=extra, output_stride=output_stride)
    for block in plain.modules():
        if isinstance(block, GlobalResponseNorm):
            nn.init.zeros_(block.weight)
    dense.load_state_dict(plain.state_dict())
    if form == "merged":
        dense.reparameterize()
        assert dense.merged
    expected, found = (
        model.forward_intermediates(images((64, 96)), intermediates_only=True) for model in (plain, dense)
    )
    for info, ours, theirs in zip(dense.feature_info, found, expected, strict=True):
        assert info["reduction"] == min(output_stride, 64 // theirs.shape[2]) == 64 // ours.shape[2]
        step = ours.shape[2] // theirs.shape[2]
        torch.testing.assert_close(ours[:, :, ::step, ::step], theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("value", [0, 2, 12, 64])
def test_an_output_stride_that_cannot_be_had(value: int) -> None:
    with pytest.raises(ValueError, match=f"output_stride is {value}, expected one of 4, 8, 16, 32"):
        network(output_stride=value)


def test_decoders_that_ask_for_an_output_stride() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    for decoder in (smp.DeepLabV3Plus, smp.PAN):
        model = decoder("tu-test_unireplknet", encoder_weights=None, classes=2).eval()
        assert model(torch.randn(1, 3, 128, 128)).shape == (1, 2, 128, 128)
