"""The public function: what it computes, what it refuses, and how it behaves inside PyTorch's tools."""

import logging
import warnings

import pytest
import torch
import torch.nn.functional as F
from definition import exactly, relative_error, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unireplknet import depthwise_conv2d
from unireplknet.ops import backend, backend_report, triton, use_backend

BACKENDS = [name for name in backend.BACKENDS if backend_report()[name] is None]
NAMES = ("y", "x.grad", "weight.grad", "bias.grad")


def random_call(batch=2, channels=3, height=9, width=7, kernel=(5, 5), dtype=torch.float32, bias=True):
    x = torch.randn(batch, channels, height, width).to(dtype)
    weight = torch.randn(channels, 1, *kernel).to(dtype)
    return x, weight, torch.randn(channels).to(dtype) if bias else None, torch.randn(x.shape).to(dtype)


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(0, 3),
    channels=st.integers(1, 5),
    height=st.integers(1, 15),
    width=st.integers(1, 15),
    kernel=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    dilation=st.integers(1, 7),
    bias=st.booleans(),
    channels_last=st.booleans(),
)
def test_equals_the_definition_in_float64(name, batch, channels, height, width, kernel, dilation, bias, channels_last):
    sizes = [2 * k + 1 for k in kernel]
    x, weight, bias, grad = random_call(batch, channels, height, width, sizes, torch.float64, bias)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    expected = exactly(x, weight, bias, dilation, grad)
    with use_backend(name):
        got = with_gradients(depthwise_conv2d, x, weight, bias, dilation, grad)
    for what, a, b in zip(NAMES, got, expected, strict=False):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=lambda m, what=what: f"{what}: {m}")


@pytest.mark.parametrize("kernel", [1, 21, 31, 51])
def test_kernels_far_larger_than_the_map(kernel):
    x, weight, bias, grad = random_call(2, 2, 5, 8, (kernel, kernel), torch.float64)
    expected = exactly(x, weight, bias, 1, grad)
    for a, b in zip(with_gradients(depthwise_conv2d, x, weight, bias, 1, grad), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("channels", "size", "kernel", "dilation"),
    [
        (20, 28, 13, 1),
        (40, 14, 13, 1),
        (80, 7, 13, 1),
        (20, 28, 7, 2),
        (20, 28, 3, 5),
        (10, 56, 3, 1),
        (8, 33, 17, 1),
        (8, 40, 31, 1),
        (6, 12, 11, 1),
        (5, 14, 9, 1),
    ],
)
def test_float32_is_as_accurate_as_pytorch(channels, size, kernel, dilation, channels_last):
    x, weight, bias, grad = random_call(4, channels, size, size + 1, (kernel, kernel))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    exact = exactly(x, weight, bias, dilation, grad)
    got = with_gradients(depthwise_conv2d, x, weight, bias, dilation, grad)
    with use_backend("reference"):
        native = with_gradients(depthwise_conv2d, x, weight, bias, dilation, grad)
    for name, a, n, e in zip(NAMES, got, native, exact, strict=True):
        assert relative_error(a, e) <= max(2 * relative_error(n, e), 1e-6), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("size", "kernel", "dilation"), [(14, 13, 1), (14, 3, 1), (9, 3, 4), (20, 17, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_half_precision_rounds_once(dtype, size, kernel, dilation, channels_last):
    x, weight, bias, grad = random_call(4, 16, size, size, (kernel, kernel), dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    exact = exactly(x, weight, bias, dilation, grad)
    got = with_gradients(depthwise_conv2d, x, weight, bias, dilation, grad)
    for name, a, e in zip(NAMES, got, exact, strict=True):
        assert a.dtype == dtype
        assert relative_error(a, e) <= 1.1 * relative_error(e.to(dtype), e), name


def test_float32_parameters_serve_half_precision_input():
    x, weight, bias, grad = random_call()
    got = with_gradients(depthwise_conv2d, x.bfloat16(), weight, bias, 1, grad)
    same = with_gradients(depthwise_conv2d, x.bfloat16(), weight.bfloat16(), bias.bfloat16(), 1, grad)
    assert [t.dtype for t in got] == [torch.bfloat16] * 2 + [torch.float32] * 2
    for a, b in zip(got, same, strict=True):
        assert torch.equal(a, b.to(a.dtype))


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_dtypes_of_conv2d(x_dtype, autocast):
    x, weight, bias, grad = random_call()
    parameters = torch.float64 if x_dtype == torch.float64 else torch.float32
    call = (x.to(x_dtype), weight.to(parameters), bias.to(parameters), 1, grad)
    with torch.autocast("cpu", dtype=autocast):
        got = with_gradients(depthwise_conv2d, *call)
        with use_backend("reference"):
            native = with_gradients(depthwise_conv2d, *call)
        plain = F.conv2d(*call[:3], padding=2, groups=3)
    assert got[0].dtype == plain.dtype
    for a, n in zip(got, native, strict=True):
        assert a.dtype == n.dtype
        assert relative_error(a, n) <= 2 * torch.finfo(plain.dtype).eps


def sliced(x):
    """The same values as a slice of a larger tensor, with no dense stride left."""
    batch, channels, height, width = x.shape
    big = x.new_full((batch, channels + 2, height + 3, width * 2), float("nan"))
    view = big[:, 1:-1, 2:-1, ::2]
    view.copy_(x)
    return view


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("kernel", [3, 13])
@pytest.mark.parametrize(
    "relayout",
    [
        sliced,
        lambda x: x.flip(0).flip(0).transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: x.expand(2, -1, -1, -1),
    ],
    ids=["slice", "transposed", "expanded"],
)
def test_non_contiguous_tensors(relayout, kernel, name):
    x, weight, bias, grad = random_call(1, 4, 9, 7, (kernel, kernel))
    weird = relayout(x)
    grad = relayout(grad)
    expected = exactly(weird, weight, bias, 1, grad.contiguous())
    with use_backend(name):
        got = with_gradients(depthwise_conv2d, weird, sliced(weight), bias, 1, grad)
    for what, a, b in zip(NAMES, got, expected, strict=True):
        assert relative_error(a, b) < 1e-6, what


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel", [3, 7, 13, 17])
def test_output_and_gradient_keep_the_layout(name, memory_format, kernel):
    x, weight, *_ = random_call(2, 4, 16, 12, (kernel, kernel))
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    with use_backend(name):
        y = depthwise_conv2d(x, weight)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert y.is_contiguous(memory_format=memory_format)
    assert grad.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("name", BACKENDS)
def test_first_and_second_gradients(name):
    inputs = tuple(t.requires_grad_() for t in random_call(2, 2, 3, 4, (5, 3), torch.float64)[:3])
    with use_backend(name):
        for dilation in (1, 2):
            assert torch.autograd.gradcheck(lambda *a, d=dilation: depthwise_conv2d(*a, d), inputs)
            assert torch.autograd.gradgradcheck(lambda *a, d=dilation: depthwise_conv2d(*a, d), inputs)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_the_wanted_gradients_are_given(wanted):
    inputs = random_call(kernel=(13, 13))[:3]
    for tensor, needs in zip(inputs, wanted, strict=True):
        tensor.requires_grad_(needs)
    depthwise_conv2d(*inputs).sum().backward()
    assert tuple(t.grad is not None for t in inputs) == wanted


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(3, 8, 8)}, ValueError, "x has 3 dimensions, expected 4"),
        ({"x": torch.zeros(1, 3, 0, 8)}, ValueError, "x has a map of 0x8"),
        (
            {"x": torch.zeros(1, 3, 8, 8, dtype=torch.int64)},
            TypeError,
            "x has dtype torch.int64, expected one of",
        ),
        ({"x": [[1.0]]}, TypeError, "x is a list, expected a Tensor"),
        ({"weight": torch.zeros(3, 5, 5)}, ValueError, "weight has 3 dimensions, expected 4"),
        (
            {"weight": torch.zeros(4, 1, 5, 5)},
            ValueError,
            r"weight has shape \(4, 1, 5, 5\), expected \(3, 1,",
        ),
        (
            {"weight": torch.zeros(3, 3, 5, 5)},
            ValueError,
            r"weight has shape \(3, 3, 5, 5\), expected \(3, 1,",
        ),
        ({"weight": torch.zeros(3, 1, 4, 5)}, ValueError, "weight has kernels of 4x5, expected odd"),
        ({"weight": torch.zeros(3, 1, 5, 5, device="meta")}, ValueError, "weight is on meta, expected cpu"),
        (
            {"weight": torch.zeros(3, 1, 5, 5, dtype=torch.float64)},
            TypeError,
            "weight has dtype torch.float64",
        ),
        ({"bias": torch.zeros(4)}, ValueError, r"bias has shape \(4,\), expected \(3,\)"),
        ({"bias": torch.zeros(3, device="meta")}, ValueError, "bias is on meta, expected cpu"),
        ({"bias": torch.zeros(3, dtype=torch.int32)}, TypeError, "bias has dtype torch.int32"),
        ({"dilation": 0}, ValueError, "dilation is 0, expected at least 1"),
        ({"dilation": (1, 1)}, TypeError, r"dilation is \(1, 1\), expected an int"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    call = {"x": torch.zeros(1, 3, 8, 8), "weight": torch.zeros(3, 1, 5, 5)} | change
    with pytest.raises(error, match=message):
        depthwise_conv2d(**call)


def test_unknown_backend_is_refused():
    with (
        pytest.raises(ValueError, match="'cuda', expected one of reference, cpu, triton"),
        use_backend("cuda"),
    ):
        pass


def test_unknown_backend_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setattr(backend, "_environment", "fast")
    with pytest.raises(ValueError, match="UNIREPLKNET_BACKEND is 'fast', expected one of"):
        depthwise_conv2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3))


def test_forced_backend_says_why_it_cannot_run():
    x, weight, *_ = random_call()
    with (
        use_backend("cpu"),
        pytest.raises(RuntimeError, match=r"'cpu' was asked for but cannot run: .* x is on meta"),
    ):
        depthwise_conv2d(x.to("meta"), weight.to("meta"))


def test_missing_triton_is_a_reason(monkeypatch):
    monkeypatch.setattr(triton, "_INSTALLED", False)
    assert "Triton is not installed" in backend_report()["triton"]
    x, weight, *_ = random_call()
    with use_backend("triton"), pytest.raises(RuntimeError, match="Triton is not installed"):
        depthwise_conv2d(x, weight)


def test_use_backend_is_undone_after_an_error():
    before = backend.forced()
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert backend.forced() == before


def test_automatic_choice_says_a_reason_once(caplog):
    with caplog.at_level(logging.INFO):
        backend._report_once("a reason for the test")
        backend._report_once("a reason for the test")
    assert caplog.messages == ["a reason for the test"]


@pytest.mark.parametrize(
    ("kernel", "dilation", "channels_last", "dtype", "native"),
    [
        (3, 1, True, torch.bfloat16, True),
        (1, 1, True, torch.float16, True),
        (3, 1, True, torch.float32, True),
        (3, 1, False, torch.float32, True),
        (3, 1, False, torch.bfloat16, False),
        (3, 2, True, torch.bfloat16, False),
        (5, 1, True, torch.bfloat16, False),
    ],
)
def test_small_kernels_run_pytorch_on_cards(kernel, dilation, channels_last, dtype, native, monkeypatch):
    monkeypatch.setattr(triton, "_card_reasons", {0: None})
    monkeypatch.setattr(triton, "_INSTALLED", True)
    with FakeTensorMode():
        x = torch.empty(2, 4, 8, 8, device="cuda", dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        chosen = backend.choose_backend(x, torch.empty(4, 1, kernel, kernel, device="cuda"), dilation)
    assert chosen == ("reference" if native else "triton")


def test_other_devices_run_pytorch():
    x, weight, *_ = random_call()
    assert depthwise_conv2d(x.to("meta"), weight.to("meta")).shape == x.shape


class Layer(nn.Module):
    def __init__(self, channels=4, kernel=13):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, 1, kernel, kernel))

    def forward(self, x):
        return depthwise_conv2d(x, self.weight, dilation=1).relu()


@pytest.mark.parametrize("kernel", [3, 13])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_compiles_whole_and_does_not_recompile_for_each_batch(kernel, memory_format):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    layer = Layer(4, kernel)
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for batch in (2, 3, 5, 8, 1, 6):
        x = torch.randn(batch, 4, 14, 10).contiguous(memory_format=memory_format)
        expected = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
        got = torch.autograd.grad(compiled(x).square().sum(), layer.weight)[0]
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
    assert counter.frame_count <= 3  # the first batch size, any batch size, and a batch of one


@pytest.mark.slow
def test_compiles_with_inductor():
    torch._dynamo.reset()
    layer = Layer(8, 13)
    x = torch.randn(2, 8, 14, 14)
    compiled = torch.compile(layer, fullgraph=True)
    expected = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
    got = torch.autograd.grad(compiled(x).square().sum(), layer.weight)[0]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kernel", [3, 13, 17])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("forced", [None, "cpu"])
def test_exports_as_one_aten_convolution(kernel, strict, forced, monkeypatch):
    monkeypatch.setattr(backend, "_environment", forced)
    layer = Layer(4, kernel)
    x = torch.randn(2, 4, 14, 10)
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": {0: torch.export.Dim("b")}}, strict=strict)
    calls = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert calls in (
        ["aten.conv2d.default", "aten.relu.default"],
        ["aten.convolution.default", "aten.relu.default"],
    )
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-4)


def test_onnx_export_holds_a_plain_convolution():
    pytest.importorskip("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(Layer().eval(), (torch.randn(2, 4, 14, 10),), dynamo=True, verbose=False)
    assert [node.op_type for node in program.model.graph] == ["Conv", "Relu"]


def test_is_an_fx_leaf_with_its_own_backward():
    layer = Layer()
    traced = torch.fx.symbolic_trace(layer)
    assert depthwise_conv2d in [n.target for n in traced.graph.nodes]
    y = traced(torch.randn(1, 4, 9, 9))
    assert "_DepthwiseConv2d" in y.grad_fn.next_functions[0][0].name()


def test_is_a_leaf_for_timm_feature_extraction():
    from timm.models._features_fx import create_feature_extractor

    net = nn.Sequential(Layer(), Layer())
    traced = create_feature_extractor(net, {"0": "first", "1": "second"})
    assert [n.target for n in traced.graph.nodes].count(depthwise_conv2d) == 2


def test_function_transforms():
    x, weight, *_ = random_call(2, 3, 9, 7, (13, 13), torch.float64)
    weight.requires_grad_()
    expected = torch.autograd.grad(depthwise_conv2d(x, weight).square().sum(), weight)[0]
    weight = weight.detach()

    def loss(weight, x):
        return depthwise_conv2d(x, weight).square().sum()

    torch.testing.assert_close(torch.func.grad(loss)(weight, x), expected)
    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, x[:, None])
    torch.testing.assert_close(per_sample.sum(0), expected)


def test_flops_are_counted_forward_and_backward():
    x, weight, *_ = random_call(2, 3, 9, 7, (13, 5), bias=False)
    x.requires_grad_()
    weight.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        depthwise_conv2d(x, weight, dilation=1).sum().backward()
    one_pass = 2 * x.numel() * 13 * 5
    assert counter.get_total_flops() == 3 * one_pass


def test_compiled_function_follows_autocast():
    torch._dynamo.reset()
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 4, 9, 9)
    dtypes = []
    for enabled in (False, True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            dtypes.append(compiled(x).dtype)
    assert dtypes == [torch.float32, torch.bfloat16, torch.float32]
