import pytest
import torch
import torch.nn.functional as F

from tests.runs import tiny_recipe
from unireplknet.modalities.folder import Batch
from unireplknet.training.task import Classification

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # there is no trainer here


def task(channels_last: bool) -> Classification:
    torch.manual_seed(0)
    recipe = tiny_recipe("nowhere")
    recipe.trainer.channels_last = channels_last
    return Classification(recipe.model.build(3, "abc"), recipe, 3, steps_per_epoch=1).double()


def batch(problems: list[str]) -> Batch:
    maps = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Batch(maps, torch.tensor([0, 1, 2, 1]), torch.arange(4), problems)


def test_memory_layout_changes_nothing_but_the_layout() -> None:
    losses = [task(layout).training_step(batch([]), 0) for layout in (False, True)]
    assert losses[0] is not None
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    weights = task(True).model.get_parameter("stages.1.downsample.conv.weight")
    assert weights.is_contiguous(memory_format=torch.channels_last)


def test_loss_is_smoothed_cross_entropy_by_its_definition() -> None:
    module = task(False)
    loss = module.training_step(batch([]), 0)
    logs = F.log_softmax(module(batch([]).maps), 1)  # in training mode: same batch statistics
    targets = F.one_hot(batch([]).labels, 3).double() * 0.9 + 0.1 / 3
    torch.testing.assert_close(loss, -(targets * logs).sum(1).mean(), rtol=1e-12, atol=0)


def test_a_batch_without_readable_samples_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    module = task(False)
    empty = Batch(torch.empty(0), torch.empty(0, dtype=torch.int64), torch.empty(0), ["a: broken", "b: broken"])
    assert module.training_step(empty, 0) is None
    module.validation_step(empty, 0)
    assert module.unreadable == {"a: broken", "b: broken"}
    assert len(caplog.records) == 2
