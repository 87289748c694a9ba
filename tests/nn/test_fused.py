"""The fused block, stem and downsampling on interpreted kernels, against the modules called one by one."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import unireplknet
from unireplknet.nn import Downsample, Stem, UniRepLKBlock
from unireplknet.nn.batch_stats import frozen_statistics, synchronise_batch_norms
from unireplknet.nn.fused import can_fuse
from unireplknet.ops import use_backend
from unireplknet.ops.triton.kernels import block as kernels

from .helpers import randomise, relative_error

slow = pytest.mark.slow
# Channels, kernel, map, batch, drop path, layer scale: planes of odd length, rows in groups, wide maps, no layer scale.
BLOCKS = [
    pytest.param(6, 7, (7, 7), 3, 0.3, 1e-6, id="odd planes"),
    pytest.param(5, 3, (4, 6), 2, 0.0, 1.0, id="plain kernel, odd channels"),
    pytest.param(4, 7, (5, 6), 1, 0.0, None, id="batch of one, no layer scale"),
    pytest.param(4, 13, (14, 14), 1, 0.0, 1.0, id="rows in groups", marks=slow),
    pytest.param(4, 9, (3, 70), 2, 0.5, 1.0, id="wide map", marks=slow),
    pytest.param(20, 7, (5, 9), 17, 0.2, 1.0, id="two tiles of images", marks=slow),
    pytest.param(36, 5, (9, 8), 2, 0.0, 1.0, id="two blocks of channels", marks=slow),
    pytest.param(4, 31, (6, 5), 2, 0.0, 1.0, id="kernel larger than the map", marks=slow),
]


def block_of(dim: int, kernel: int, drop_path: float = 0.0, layer_scale: float | None = 1.0) -> UniRepLKBlock:
    return randomise(UniRepLKBlock(dim, kernel, drop_path=drop_path, layer_scale_init=layer_scale)).double()


def outcome(model: nn.Module, x: Tensor, backend: str, call: Callable[..., Tensor] | None = None) -> dict[str, Tensor]:
    """Output, gradients and buffers of one step of a copy."""
    model, x = copy.deepcopy(model), x.clone().requires_grad_()
    torch.manual_seed(1)
    with use_backend(backend):
        y = model(x) if call is None else call(model, x)
        weight = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape).sin()
        (y * weight).sum().backward()
    gradients = {f"{name}.grad": p.grad for name, p in model.named_parameters()}
    return {"y": y.detach(), "x.grad": x.grad, **gradients, **dict(model.named_buffers())}


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype, name
        # Gradients that are zero but for rounding (biases before a norm) are held to the scale of 1.
        error = (got[name] - value).abs().max() / value.abs().max().clamp(min=1)
        assert error <= tolerance, f"{name} differs by {error:.1e}"


@pytest.mark.parametrize(("dim", "kernel", "size", "batch", "drop_path", "layer_scale"), BLOCKS)
def test_a_training_step_of_a_block(dim, kernel, size, batch, drop_path, layer_scale) -> None:
    block = block_of(dim, kernel, drop_path, layer_scale).train()
    x = torch.randn(batch, dim, *size, dtype=torch.float64)
    with use_backend("triton"):
        assert can_fuse(block, x) is None
    assert_equal(outcome(block, x, "triton"), outcome(block, x, "reference"))


@pytest.mark.parametrize(("dim", "kernel", "size", "batch", "drop_path", "layer_scale"), BLOCKS)
@pytest.mark.parametrize("merged", [False, True])
def test_a_block_in_eval_mode(dim, kernel, size, batch, drop_path, layer_scale, merged) -> None:
    block = block_of(dim, kernel, drop_path, layer_scale).eval()
    x = torch.randn(batch, dim, *size, dtype=torch.float64)
    with use_backend("reference"), torch.no_grad():
        expected = block(x)
    if merged:
        block.reparameterize()
    with use_backend("triton"), torch.no_grad():
        assert can_fuse(block, x) is None
        assert relative_error(block(x), expected) < 1e-12


def test_channels_last_and_sliced_inputs() -> None:
    block = block_of(4, 7).train()
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    expected = outcome(block, x, "reference")
    big = x.new_full((2, 6, 8, 10), float("nan"))
    sliced = big[:, 1:-1, 1:-1, ::2]
    sliced.copy_(x)
    for other in (x.contiguous(memory_format=torch.channels_last), sliced):
        assert_equal(outcome(block, other, "triton"), expected)


def test_a_block_before_a_convolution_gives_and_takes_channels_last() -> None:
    block = block_of(4, 7).train()
    block.channels_last = True
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    got = outcome(block, x, "triton")
    assert got["y"].is_contiguous(memory_format=torch.channels_last)
    assert_equal(got, outcome(block, x, "reference"))
    with use_backend("triton"), torch.no_grad():
        y = block.eval()(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    with use_backend("reference"), torch.no_grad():
        assert relative_error(y, block(x)) < 1e-12


def test_statistics_far_from_zero_do_not_cancel() -> None:
    """Means a million times the deviation: sums of squares would have no digit left."""
    block = block_of(4, 7).train()
    x = torch.randn(3, 4, 7, 7, dtype=torch.float64) * 1e-3 + 1e3
    got, expected = outcome(block, x, "triton"), outcome(block, x, "reference")
    for name in ("dwconv.branches.0.bn.running_var", "norm.running_var", "norm2.running_var"):
        assert relative_error(got[name], expected[name]) < 1e-7, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lower_precision_is_within_the_modules_own_error(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    block = block_of(8, 7).train()
    x = torch.randn(4, 8, 9, 8, dtype=torch.float64)
    exact = outcome(block, x, "reference")
    half = dtype == torch.float16

    def call(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=half):
            return model(x)

    usual, fused = (outcome(block.float(), x.float(), backend, call) for backend in ("cpu", "triton"))
    floor = torch.finfo(dtype).eps
    for name, value in exact.items():
        if not value.is_floating_point() or name.endswith(("grn.bias.grad", "bn.bias.grad")):
            continue  # gradients that are zero but for rounding
        scale = value.abs().max().clamp(min=1e-2)
        error, usual_error = (((r[name].double() - value).abs().max() / scale).item() for r in (fused, usual))
        # float32 comes from three products of tf32, which leave out the smallest terms.
        assert error <= 3 * usual_error + 8 * floor, f"{name}: {error:.1e}, the modules {usual_error:.1e}"


def test_activations_near_the_end_of_half_precision() -> None:
    """GRN's squares and norms would overflow in float16."""
    block = UniRepLKBlock(8, 3).half().eval()
    with torch.no_grad():
        block.pwconv1.weight.fill_(1.0)
        block.grn.weight.fill_(0.5)
    block.reparameterize()
    x = torch.full((1, 8, 6, 6), 900.0).half()
    with torch.no_grad():
        with use_backend("triton"):
            got = block(x)
        with use_backend("reference"):
            expected = copy.deepcopy(block).double()(x.double())
    assert got.isfinite().all()
    assert relative_error(got, expected) < 2e-3


@triton.jit
def gelu_kernel(h_ptr, g_ptr, slope_ptr, n: tl.constexpr, is_half: tl.constexpr):
    i = tl.arange(0, n)
    g, slope = kernels._gelu_and_slope(tl.load(h_ptr + i), is_half)
    tl.store(g_ptr + i, g)
    tl.store(slope_ptr + i, slope)


def test_gelu_of_half_precision_keeps_to_its_bound() -> None:
    h = torch.linspace(-6, 6, 4096)
    exact = h.double().requires_grad_()
    F.gelu(exact).sum().backward()
    g, slope = torch.empty_like(h), torch.empty_like(h)
    gelu_kernel[(1,)](h, g, slope, 4096, True)
    errors = (g.double() - F.gelu(h.double())).abs() / F.gelu(h.double()).abs()
    assert errors[h > -3].max() < 1e-5
    assert errors.max() < 3e-3
    assert (slope.double() - exact.grad).abs().max() < 1e-5
    gelu_kernel[(1,)](h, g, slope, 4096, False)
    assert (g.double() - F.gelu(h.double())).abs().max() < 1e-6
    assert (slope.double() - exact.grad).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: Stem(3, 8), (2, 3, 17, 22)),
        (lambda: Stem(2, 6, stride=1), (2, 2, 5, 7)),
        (lambda: Downsample(6, 40), (2, 6, 9, 8)),
        (lambda: Downsample(40, 12), (2, 40, 7, 8)),
    ],
    ids=["stem", "stem of stride 1", "downsampling in one pass", "downsampling"],
)
def test_stem_and_downsampling(layer: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    module = layer().double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    x = torch.randn(shape, dtype=torch.float64)
    expected = outcome(module, x, "reference")
    assert_equal(outcome(module, x, "triton"), expected)
    with use_backend("triton"), torch.no_grad():
        assert relative_error(module(x), expected["y"]) < 1e-12
    module.register_forward_pre_hook(lambda *_: None)  # of the whole, which the parts need not see
    getattr(module, "conv2", getattr(module, "conv", None)).register_forward_hook(lambda *_: None)
    assert_equal(outcome(module, x, "triton"), expected)


# --- the whole network


def network() -> nn.Module:
    torch.manual_seed(0)
    shape = {"depths": (1, 1, 1, 1), "dims": (4, 4, 4, 4), "kernel_sizes": (3, 7, 3, 3)}
    return randomise(unireplknet.UniRepLKNet(3, 5, **shape, drop_path_rate=0.2, layer_scale_init=1.0)).double().train()


def train(backend: str, steps: int = 3, compiled: bool = False) -> nn.Module:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(2)

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(x), labels)

    call = torch.compile(loss, fullgraph=True) if compiled else loss
    with use_backend(backend):
        for _ in range(steps):
            x = torch.randn(2, 3, 24, 17, generator=generator, dtype=torch.float64)
            optimizer.zero_grad()
            call(x, torch.tensor([1, 4])).backward()
            optimizer.step()
    return model


def test_three_steps_of_a_network_end_with_the_references_parameters_and_statistics() -> None:
    got, expected = train("triton"), train("reference")
    for (name, a), b in zip(got.state_dict().items(), expected.state_dict().values(), strict=True):
        assert (a - b).abs().max() < 1e-9, name
    got.eval()
    expected.eval()
    x = torch.randn(2, 3, 24, 17, dtype=torch.float64)
    with torch.no_grad():
        with use_backend("reference"):
            y = expected(x)
        with use_backend("triton"):
            assert relative_error(got(x), y) < 1e-9
            assert relative_error(got.reparameterize()(x), y) < 1e-9


@slow
def test_the_compiled_network_takes_the_same_steps() -> None:
    torch._dynamo.reset()
    got, expected = train("triton", steps=2, compiled=True), train("triton", steps=2)
    for (name, a), b in zip(got.state_dict().items(), expected.state_dict().values(), strict=True):
        assert (a - b).abs().max() < 1e-9, name


def test_a_step_gives_equal_bits_again() -> None:
    block = block_of(4, 7, drop_path=0.3).float().train()
    x = torch.randn(3, 4, 7, 6)
    first, second = (outcome(block, x, "triton") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_checkpointing_gives_the_same_gradients_and_counts_a_batch_once() -> None:
    block = block_of(4, 7).train()
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)

    def checkpointed(model: nn.Module, x: Tensor) -> Tensor:
        contexts = lambda: (torch.autograd.graph.save_on_cpu(), frozen_statistics(model))  # noqa: E731
        return checkpoint(model, x, use_reentrant=False, context_fn=contexts)

    assert_equal(outcome(block, x, "triton", checkpointed), outcome(block, x, "reference"))


def test_second_derivatives_are_those_of_the_modules() -> None:
    block = block_of(2, 7, drop_path=0.4).train()
    x = torch.randn(2, 2, 4, 3, dtype=torch.float64)

    def penalty(backend: str) -> list[Tensor]:
        model, inputs = copy.deepcopy(block), x.clone().requires_grad_()
        torch.manual_seed(3)
        with use_backend(backend):
            y = model(inputs).square().sum()
            (grad,) = torch.autograd.grad(y, inputs, create_graph=True)
            grads = torch.autograd.grad(grad.square().sum(), [inputs, *model.parameters()], allow_unused=True)
        tracked = model.norm.num_batches_tracked
        assert tracked == 1
        return [torch.zeros(1) if g is None else g for g in grads]

    for a, b in zip(penalty("triton"), penalty("reference"), strict=True):
        assert (a - b).abs().max() <= 1e-10 * max(1.0, b.abs().max().item())


def test_a_weight_changed_in_place_is_used_in_the_next_call() -> None:
    block = block_of(4, 7).eval().reparameterize()
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    with torch.no_grad(), use_backend("triton"):
        block(x)
        for parameter in block.parameters():
            parameter.mul_(1.5)
        got = block(x)
        with use_backend("reference"):
            assert relative_error(got, block(x)) < 1e-12


def test_frozen_parameters_get_no_gradient() -> None:
    block = block_of(4, 7).train()
    block.dwconv.main.weight.requires_grad_(False)
    block.pwconv1.weight.requires_grad_(False)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    with use_backend("triton"):
        block(x).sum().backward()
    assert block.dwconv.main.weight.grad is None
    assert block.pwconv1.weight.grad is None
    assert block.pwconv2.weight.grad is not None


def test_saves_what_the_backward_pass_needs_and_no_more() -> None:
    """Four maps and one for each branch, of the block's width, and the hidden layer once."""
    block = block_of(8, 7).train()
    x = torch.randn(2, 8, 10, 10, dtype=torch.float64, requires_grad=True)
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with use_backend("triton"), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        block(x)
    branches = len(block.dwconv.branches)
    assert sum(saved.values()) / x.numel() == pytest.approx(4 + branches + 4, rel=0.35)


def test_flops_are_what_the_mathematics_needs() -> None:
    """Two for each multiplication of convolutions, products and SE; twice that again in the backward pass."""
    block = block_of(8, 7).train()
    x = torch.randn(2, 8, 10, 10, dtype=torch.float64, requires_grad=True)
    taps = 7 * 7 + sum(k * k for k, _ in block.dwconv.pairs)
    forward = 2 * x.numel() * (taps + 2 * 4 * 8) + 2 * 2 * 2 * 8 * 2
    with use_backend("triton"), FlopCounterMode(display=False) as counter:
        block(x).sum().backward()
    assert counter.get_total_flops() == 3 * forward
    block.eval().reparameterize()
    with use_backend("triton"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        block(x)
    assert counter.get_total_flops() == forward - 2 * x.numel() * (taps - 49)


@pytest.mark.parametrize("name", ["mix", "feed_forward", "infer", "layer_norm", "conv_norm", "contiguous"])
def test_operators_pass_pytorchs_own_checks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake results have the real ones' form; no input is changed; nothing aliases."""
    calls: list[tuple[Any, ...]] = []
    operator = getattr(torch.ops.unireplknet, name)

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is operator.default:
                calls.append(args)
            return func(*args, **(kwargs or {}))

    block = block_of(4, 7).train(name in ("mix", "feed_forward", "contiguous"))
    block.channels_last = True
    with use_backend("triton"), Watch(), torch.set_grad_enabled(block.training):
        y = block(torch.randn(2, 4, 5, 6, dtype=torch.float64))
        if block.training:
            y.square().sum().backward()
        Stem(3, 8).double()(torch.randn(1, 3, 8, 8, dtype=torch.float64))
        Downsample(40, 4).double()(torch.randn(1, 40, 4, 4, dtype=torch.float64))
    torch.library.opcheck(operator.default, calls[0], test_utils=("test_schema", "test_faketensor"))


# --- when the modules run


def hooked(block: UniRepLKBlock) -> None:
    block.dwconv.branches[1].bn.register_forward_hook(lambda *_: None)


def hooked_backward(block: UniRepLKBlock) -> None:
    block.pwconv2.register_full_backward_hook(lambda *_: None)


def replaced(block: UniRepLKBlock) -> None:
    block.pwconv1.__class__ = type("Adapted", (nn.Linear,), {})


def one_norm_frozen(block: UniRepLKBlock) -> None:
    block.dwconv.branches[2].bn.eval()


def plain_average(block: UniRepLKBlock) -> None:
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None


def other_eps(block: UniRepLKBlock) -> None:
    block.dwconv.branches[0].bn.eps = 1e-3


def synchronized(block: UniRepLKBlock) -> None:
    synchronise_batch_norms(block)


def no_squeeze_excite(block: UniRepLKBlock) -> None:
    block.extra = nn.Identity()


def half_merged(block: UniRepLKBlock) -> None:
    block.dwconv = block.dwconv.fuse()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hooked, "hook"),
        (hooked_backward, "Linear has a hook"),
        (replaced, "Adapted"),
        (one_norm_frozen, "running statistics"),
        (plain_average, "average over all batches"),
        (other_eps, "eps"),
        (synchronized, "synchronized"),
        (no_squeeze_excite, "plain SE"),
    ],
)
def test_the_modules_run_where_something_else_is_asked_of_them(change: Any, reason: str) -> None:
    block = block_of(4, 7).train()
    change(block)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    with use_backend("triton"):
        assert reason in str(can_fuse(block, x))
    assert_equal(outcome(block, x, "triton"), outcome(block, x, "reference"))


def test_a_block_of_which_only_the_depthwise_layer_is_merged() -> None:
    block = block_of(4, 7)
    half_merged(block)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    assert_equal(outcome(block.train(), x, "triton"), outcome(block, x, "reference"))
    with torch.no_grad():
        with use_backend("triton"):
            got = block.eval()(x)
        with use_backend("reference"):
            assert relative_error(got, block(x)) < 1e-12


def test_each_obstacle_of_a_call_is_a_sentence() -> None:
    block = block_of(4, 7).train()
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    assert "on cpu" in str(can_fuse(block, x))
    with use_backend("reference"):
        assert "on cpu" in str(can_fuse(block, x))
    with use_backend("triton"):
        assert "empty" in str(can_fuse(block, x[:0]))
        assert "(B, C, H, W)" in str(can_fuse(block, x[0]))
        assert "one value" in str(can_fuse(block, x[:1, :, :1, :1]))
        assert "gradients" in str(can_fuse(block.eval(), x))
        with torch.no_grad():
            assert can_fuse(block, x) is None
            reasons = []
            torch.func.vmap(lambda x: x + bool(reasons.append(can_fuse(block, x))))(x[None])
            assert "torch.func" in reasons[0]


def test_an_empty_batch_gives_an_empty_map() -> None:
    block = block_of(4, 7).eval()
    with use_backend("triton"), torch.no_grad():
        assert block(torch.zeros(0, 4, 6, 5, dtype=torch.float64)).shape == (0, 4, 6, 5)
