"""Statistics over several processes against one process that sees the whole batch."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from unireplknet import UniRepLKNet
from unireplknet.nn.batch_stats import (
    SyncBatchNorm2d,
    deferred_statistics,
    frozen_statistics,
    synchronise_batch_norms,
    update_all_statistics,
)

from .helpers import randomise, relative_error

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this PyTorch was built without gloo")


def network() -> nn.Module:
    model = UniRepLKNet(2, 3, depths=(1, 1, 1, 1), dims=(8,) * 4, kernel_sizes=(3, 7, 13, 0), stem_stride=1)
    return randomise(model.double()).train()


def batch() -> Tensor:
    g = torch.Generator().manual_seed(5)
    return torch.randn(5, 2, 9, 7, generator=g, dtype=torch.float64)


def run(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    assert x.grad is not None
    grads = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": y.detach(), "grad input": x.grad, **grads, **dict(model.named_buffers())}


def worker(rank: int, folder: str, split: tuple[int, int], fixed: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(Path(folder) / "rendezvous").as_uri(), rank=rank, world_size=2)
    model = synchronise_batch_norms(network())
    if fixed:
        model.eval()
    torch.save(run(model, batch().split(split)[rank]), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("split", "fixed"), [((2, 3), False), ((5, 0), False), ((2, 3), True)])  # uneven on purpose
def test_two_processes_equal_one(tmp_path: Path, split: tuple[int, int], fixed: bool) -> None:
    mp.spawn(worker, (str(tmp_path), split, fixed), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    model = network()
    if fixed:
        model.eval()
    whole = run(model, batch())
    for name, expected in whole.items():
        if name in ("output", "grad input"):
            got = torch.cat([first[name], second[name]])
        elif name.startswith("grad "):
            got = first[name] + second[name]
        else:
            got = first[name]
            assert torch.equal(first[name], second[name]), name
        # Zero gradients (the branch norms' biases, GRN's bias) are rounding noise: an absolute floor.
        assert (got - expected).abs().max() < 1e-10 * max(1.0, expected.abs().max().item()), name


def test_without_processes_it_is_batch_norm() -> None:
    plain, synchronised = network(), synchronise_batch_norms(network())
    assert any(isinstance(m, SyncBatchNorm2d) for m in synchronised.modules())
    x = batch()
    for (name, a), b in zip(run(plain, x).items(), run(synchronised, x).values(), strict=True):
        assert (a - b).abs().max() < 1e-12 * max(1.0, b.abs().max().item()), name
    assert relative_error(plain.eval()(x), synchronised.eval()(x)) < 1e-13


def test_no_samples_give_no_gradient_and_leave_the_statistics_alone() -> None:
    model = network()
    before = copy.deepcopy(dict(model.named_buffers()))
    after = run(model, batch()[:0])
    for name, value in after.items():
        if name.startswith("grad "):
            assert (value == 0).all(), name
        elif "running" in name:
            assert torch.equal(value, before[name]), name


def test_synchronised_model_merges() -> None:
    model = synchronise_batch_norms(network()).eval()
    expected = model(batch())
    merged = copy.deepcopy(model).reparameterize()
    assert merged.merged
    assert relative_error(merged(batch()), expected) < 1e-12


def test_frozen_statistics_change_nothing_but_the_output() -> None:
    model = network()
    before = copy.deepcopy(dict(model.named_buffers()))
    with frozen_statistics(model):
        frozen = model(batch())
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
    assert torch.equal(model(batch()), frozen)
    assert not torch.equal(before["stages.1.blocks.0.norm.running_mean"], model.stages[1].blocks[0].norm.running_mean)


def test_checkpointing_keeps_gradients_and_counts_each_batch_once() -> None:
    plain, checkpointed = network(), network()
    checkpointed.set_grad_checkpointing()
    for (name, a), b in zip(run(plain, batch()).items(), run(checkpointed, batch()).values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("momenta", [(0.1, 0.1), (0.1, 0.3)])
def test_deferred_updates_are_those_of_the_norms_in_turn(momenta: tuple[float, float]) -> None:
    """One norm sees two batches, as in a block that runs twice; nothing is written before the context ends."""
    norms, expected = ([nn.BatchNorm2d(4, momentum=m).double() for m in momenta] for _ in range(2))
    batches = [torch.randn(5, 4, 3, 3, dtype=torch.float64) + i for i in range(3)]
    with deferred_statistics():
        for i, x in zip((0, 1, 0), batches, strict=True):
            stats = torch.stack([x.mean((0, 2, 3)), torch.zeros(4).double(), x.var((0, 2, 3))])[:, None]
            update_all_statistics([norms[i]], [stats])
            expected[i].train()(x)
        assert all(norm.num_batches_tracked == 0 for norm in norms)
    for norm, other in zip(norms, expected, strict=True):
        torch.testing.assert_close(norm.state_dict(), other.state_dict(), rtol=1e-13, atol=1e-13)
