"""Blocks and the network under PyTorch's own machinery: torch.compile, torch.export, timm's feature extraction."""

import copy
import operator
from typing import Any

import pytest
import timm
import torch
from timm.models import create_feature_extractor
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import unireplknet  # registers the models
from unireplknet.nn import DilatedReparamConv, UniRepLKBlock

from .helpers import randomise, relative_error

FORMS = ["training", "eval", "merged"]
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def make(name: str, form: str) -> tuple[Any, Tensor]:
    """A LarK block or the test network in float64, every parameter of which matters, and an input."""
    if name == "block":
        model, shape = UniRepLKBlock(6, 7), (2, 6, 9, 11)
    else:
        model, shape = timm.create_model("test_unireplknet", num_classes=5), (2, 3, 65, 48)
    model = randomise(model).double().train(form == "training")
    if form == "merged":
        unireplknet.reparameterize(model)
    return model, torch.randn(shape, dtype=torch.float64)


def outcome(call: Any, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, every gradient and every buffer after one step."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = call(x)
    weight = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape).sin()
    (y * weight).sum().backward()
    gradients = {f"{name}.grad": p.grad for name, p in model.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return {"output": y.detach(), "x.grad": x.grad, **gradients, **buffers}


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype, name
        # Gradients that are zero but for rounding (biases before a BatchNorm) are held to the scale of 1.
        error = (got[name] - value).abs().max() / value.abs().max().clamp(min=1)
        assert error <= tolerance, f"{name} differs by {error:.1e}"


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("block", form) for form in FORMS),
        ("network", "training"),
        pytest.param("network", "eval", marks=slow),
        pytest.param("network", "merged", marks=slow),
    ],
)
def test_compiles_to_one_graph_with_equal_gradients_and_statistics(name: str, form: str) -> None:
    model, x = make(name, form)
    twin = copy.deepcopy(model)
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for _ in range(2):  # the second step starts from the first one's statistics
        expected = outcome(model, model, x)
        assert_equal(outcome(compiled, twin, x), expected, 1e-11)
    moved = [key for key, value in before.items() if not torch.equal(expected[key], value)]
    assert len(moved) == (len(before) if form == "training" else 0)


@pytest.mark.parametrize(
    ("how", "form"),
    [
        ("marked", "training"),
        ("marked", "merged"),
        pytest.param("automatic", "training", marks=slow),
        pytest.param("dynamic", "training", marks=slow),
        pytest.param("dynamic", "merged", marks=slow),
    ],
)
def test_no_compilation_for_a_third_batch_size(how: str, form: str) -> None:
    model, _ = make("block", form)
    twin = copy.deepcopy(model)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(twin, fullgraph=True, backend=counter, dynamic=True if how == "dynamic" else None)

    def call(x: Tensor) -> Tensor:
        if how == "marked":
            torch._dynamo.mark_dynamic(x, 0)
        return compiled(x)

    frames = []
    for batch in (2, 3, 5):
        x = torch.randn(batch, 6, 9, 11, dtype=torch.float64)
        assert_equal(outcome(call, twin, x), outcome(model, model, x), 1e-11)
        frames.append(counter.frame_count)
    # Unmarked, the second size is what tells the compiler that it varies. With dynamic=True the first call may start
    # over once, to make tensors of the floats it meets.
    assert frames[1] == frames[2]
    assert how == "automatic" or frames[0] == frames[1]


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=slow)])
@pytest.mark.parametrize("form", ["eval", "merged"])
def test_exports_to_aten_alone(form: str, strict: bool) -> None:
    model, x = make("network", form)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}}, strict=strict)
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    targets = {node.target for graph in graphs for node in graph.nodes if node.op == "call_function"}
    foreign = [
        target
        for target in targets - {operator.getitem, operator.mul, operator.floordiv}
        if not isinstance(target, torch._ops.OpOverload) or target.namespace not in ("aten", "sym")
    ]
    assert not foreign
    convolutions = (torch.ops.aten.conv2d.default, torch.ops.aten.convolution.default)
    assert any(target in convolutions for target in targets)
    for batch in (2, 3):
        x = torch.randn(batch, *x.shape[1:], dtype=x.dtype)
        assert relative_error(program.module()(x), model(x)) < 1e-12


def test_a_feature_extractor_keeps_gradients_and_saves_one_map_a_block() -> None:
    model, x = make("network", "training")
    traced = create_feature_extractor(copy.deepcopy(model), {"head.fc": "y"}).train()
    maps: list[int] = []
    saved: list[Tensor] = []

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        kept = [t for t in saved if t.shape == inputs[0].shape]
        maps.append(len({t.untyped_storage()._cdata for t in kept}))

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    blocks = [m for m in traced.modules() if isinstance(m, DilatedReparamConv)]
    for block in blocks:
        # A hook on the block itself, not on a branch: the fused step still runs.
        block.register_forward_pre_hook(lambda *_: saved.clear())
        block.register_forward_hook(count)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        got = outcome(lambda x: traced(x)["y"], traced, x)
    expected = outcome(model, model, x)
    assert_equal({key: got[key] for key in expected}, expected, 1e-11)
    assert maps == [1] * 3
    assert len(blocks) == 3


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_compiles_with_inductor(form: str) -> None:
    model, x = make("network", form)
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True)
    assert_equal(outcome(compiled, twin, x), outcome(model, model, x), 1e-9)
