"""What a card would be given, without one: compiled graphs on fake ``cuda`` tensors, and steps on the meta device."""

import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import BaseTorchFunctionMode

import unireplknet
from unireplknet.nn.fused import can_fuse
from unireplknet.ops import depthwise_conv2d, triton, use_backend
from unireplknet.ops.triton.launch import LaunchRecorder
from unireplknet.ops.triton.library import NAMESPACE

pytest.importorskip("triton")

BLOCKS = 6
STEP = {"mix", "feed_forward", "mix_backward", "feed_forward_backward"}


@pytest.fixture(autouse=True)
def _a_card_of_compute_capability_9(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    triton._card_reasons.clear()
    torch._dynamo.reset()
    yield
    triton._card_reasons.clear()
    torch._dynamo.reset()


def network(form: str) -> nn.Module:
    """All stages, LarK and SmaK blocks, on the meta device."""
    with torch.device("meta"):
        shape = {"depths": (1, 2, 2, 1), "dims": (8, 16, 40, 40), "kernel_sizes": (3, (7, 3), (13, 3), 7)}
        model = unireplknet.UniRepLKNet(3, 5, **shape, drop_path_rate=0.2).train(form == "training")
        return model.reparameterize() if form == "merged" else model


class Graphs:
    """A compiler that keeps the graphs it is given and runs them as they are."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        self.graphs.append(graph)
        return graph.forward

    def nodes(self) -> list[torch.fx.Node]:
        """Calls of all graphs and of the graphs in them, where the operators of autograd Functions stand."""
        modules = [m for graph in self.graphs for m in graph.modules() if isinstance(m, torch.fx.GraphModule)]
        return [node for module in modules for node in module.graph.nodes if node.op == "call_function"]

    def ours(self) -> Counter[str]:
        """Operators of ours."""
        names = (str(node.target) for node in self.nodes())
        return Counter(name.removeprefix("unireplknet.") for name in names if name.startswith("unireplknet."))


def large_depthwise(nodes: list[torch.fx.Node]) -> list[torch.fx.Node]:
    """Convolutions of PyTorch's with groups = channels above 3x3."""
    found = []
    for node in nodes:
        tensors = [a.meta.get("example_value", a.meta.get("val")) for a in node.all_input_nodes]
        weights = [t for t in tensors if isinstance(t, Tensor) and t.dim() == 4 and t.shape[1] == 1 and t.shape[-1] > 3]
        if "conv" in str(node.target) and not str(node.target).startswith("unireplknet") and weights:
            found.append(node)
    return found


def compiled_calls(form: str, dynamic: bool | None, batches: list[int], mark: bool = False) -> tuple[Graphs, int]:
    model, compiler = network(form), Graphs()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.set_grad_enabled(form == "training"):
        model.to_empty(device="cuda")
        call = torch.compile(model, backend=compiler, fullgraph=True, dynamic=dynamic)
        for batch in batches:
            x = torch.empty(batch, 3, 64, 64, device="cuda")
            if mark:
                torch._dynamo.mark_dynamic(x, 0)
            y = call(x)
    assert y.shape == (batches[-1], 5)
    return compiler, len(compiler.graphs)


@pytest.mark.parametrize("form", ["training", "eval", "merged"])
def test_one_graph_holds_our_operators_and_no_other_depthwise_convolution(form: str) -> None:
    compiler, graphs = compiled_calls(form, False, [4, 4])
    assert graphs == 1
    ours = compiler.ours()
    if form == "training":
        assert {name: ours[name] for name in STEP} == dict.fromkeys(STEP, BLOCKS)
        assert ours["layer_norm_backward"] == 5
    else:
        assert ours["infer"] == BLOCKS
    assert not large_depthwise(compiler.nodes())


def test_the_search_for_other_convolutions_would_find_one() -> None:
    compiler = Graphs()
    with FakeTensorMode():
        weight = torch.empty(4, 1, 13, 13, device="cuda")
        call = torch.compile(lambda x: F.conv2d(x, weight, padding=6, groups=4), backend=compiler)
        call(torch.empty(1, 4, 20, 20, device="cuda"))
    assert len(large_depthwise(compiler.nodes())) == 1


@pytest.mark.parametrize("form", ["training", "merged"])
@pytest.mark.parametrize("how", ["dynamic", "marked"])
def test_a_smaller_last_batch_compiles_nothing_new(form: str, how: str) -> None:
    _, graphs = compiled_calls(form, True if how == "dynamic" else None, [4, 4, 3], mark=how == "marked")
    assert graphs == 1


def test_aot_autograd_keeps_the_operators_of_inference_whole() -> None:
    model = network("merged")
    seen: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        seen.append(graph)
        return graph.forward

    backend = torch._dynamo.backends.common.aot_autograd(fw_compiler=keep)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model.to_empty(device="cuda")
        torch.compile(model, backend=backend, fullgraph=True)(torch.empty(2, 3, 64, 64, device="cuda"))
    nodes = [node for graph in seen for node in graph.graph.nodes]
    assert sum(str(node.target) == "unireplknet.infer.default" for node in nodes) == BLOCKS
    assert not [node for node in nodes if "clone" in str(node.target) and node.meta["val"].dim() == 4]


def test_the_operator_alone_compiles_for_a_card() -> None:
    weight = torch.empty(4, 1, 13, 13, device="meta", requires_grad=True)
    counter = CompileCounterWithBackend("eager")
    with FakeTensorMode(allow_non_fake_inputs=True):
        weight = torch.empty(4, 1, 13, 13, device="cuda", requires_grad=True)
        call = torch.compile(lambda x: depthwise_conv2d(x, weight), backend=counter, fullgraph=True)
        assert call(torch.empty(2, 4, 20, 20, device="cuda")).shape == (2, 4, 20, 20)
    assert counter.frame_count == 1


def test_the_reason_of_an_old_card_reaches_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    block = network("training").stages[1].blocks[0]
    with FakeTensorMode():
        x = torch.empty(2, 16, 8, 8, device="cuda")
        assert "compute capability 8.0" in str(can_fuse(block, x))


def test_a_machine_without_a_c_compiler_runs_the_modules_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    block = network("training").stages[1].blocks[0]
    with FakeTensorMode():
        x = torch.empty(2, 16, 8, 8, device="cuda")
        assert "C compiler" in str(can_fuse(block, x))


# --- a step on the meta device: nothing may be read on the host


class NoReading(LaunchRecorder):
    """Fails where Python would wait for a value of a tensor, in our operators too."""

    FORBIDDEN = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.ours: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        assert name not in self.FORBIDDEN, f"{func} reads a tensor on the host"
        self.ours[name] += func.namespace == NAMESPACE
        devices = {a.device.type for a in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(a, Tensor)}
        result = super().__torch_dispatch__(func, types, args, kwargs)
        outputs = {t.device.type for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, Tensor)}
        assert not (devices == {"meta"} and "cpu" in outputs), f"{func} copies a tensor to the host"
        return result


def test_the_check_for_reading_would_find_it() -> None:
    x = torch.ones(1)
    with pytest.raises(AssertionError, match="on the host"), NoReading():
        x.item()


@pytest.mark.parametrize("form", ["training", "eval", "merged"])
def test_no_step_waits_for_the_card_or_reads_from_it(form: str) -> None:
    """Nor in the operators: CUDA graphs can hold the whole step."""
    model, mode = network(form), NoReading()
    x = torch.empty(4, 3, 64, 64, device="meta")
    with use_backend("triton"), mode, torch.set_grad_enabled(form == "training"):
        y = model(x)
        if form == "training":
            F.cross_entropy(y, torch.empty(4, dtype=torch.int64, device="meta")).backward()
    assert mode.ours["mix_backward" if form == "training" else "infer"] == BLOCKS
    assert all(isinstance(launch.grid[0], int) for launch in mode.launches)


def test_a_default_device_changes_nothing() -> None:
    """It is a mode that sees every call, as tracers are; a block under another one runs its modules."""
    block, x = network("training").stages[1].blocks[0], torch.empty(2, 16, 8, 8, device="meta")
    with use_backend("triton"):
        with torch.device("meta"):
            assert can_fuse(block, x) is None
        with BaseTorchFunctionMode():
            assert "torch.fx" in str(can_fuse(block, x))


def test_inference_keeps_no_convolution_for_a_backward_pass() -> None:
    """Parameters require gradients then too."""
    stem, mode = network("eval").stem, LaunchRecorder()
    with use_backend("triton"), mode, torch.no_grad():
        stem(torch.empty(4, 3, 64, 64, device="meta"))
    assert [launch.kernel.__name__ for launch in mode.launches] == ["conv_norm_kernel"] * 2
    assert all(launch.named["y_ptr"] is None for launch in mode.launches)


def test_fake_results_have_the_form_of_the_launchers_own() -> None:
    """On meta tensors both can be had, for every operator of a step and of inference."""
    seen: Counter[str] = Counter()

    class Compare(LaunchRecorder):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            fake = func(*args, **(kwargs or {}))
            if func.namespace == NAMESPACE:
                name = func._schema.name.split("::")[1]
                seen[name] += 1
                real = super().__torch_dispatch__(func, types, args, kwargs)
                for a, b in zip(*([t] if isinstance(t, Tensor) else t for t in (fake, real)), strict=True):
                    assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()), name
            return fake

    for form in ("training", "eval", "merged"):
        model = network(form)
        with use_backend("triton"), Compare(), torch.set_grad_enabled(form == "training"):
            y = model(torch.empty(4, 3, 64, 64, device="meta"))
            if form == "training":
                y.sum().backward()
    assert set(seen) >= STEP | {"infer", "layer_norm", "layer_norm_backward", "conv_norm"}


def test_operators_are_counted_by_pytorch() -> None:
    """A guard for the graph tests: an operator that is called is a node with our name."""
    compiler = Graphs()
    with FakeTensorMode():
        weight = torch.empty(4, 1, 13, 13, device="cuda")
        with torch.no_grad():
            torch.compile(lambda x: operator.add(depthwise_conv2d(x, weight), 1), backend=compiler, fullgraph=True)(
                torch.empty(1, 4, 20, 20, device="cuda")
            )
    assert compiler.ours() == Counter({"conv": 1})
