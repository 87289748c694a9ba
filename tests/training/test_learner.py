from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from timm.data import Mixup

from tests.runs import forecast_recipe, image_recipe
from unireplknet.data.dataset import Batch
from unireplknet.randomness import seed_from
from unireplknet.tasks.classify.learn import ClassificationLearner

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # there is no trainer here


def task(channels_last: bool) -> ClassificationLearner:
    torch.manual_seed(0)
    recipe = image_recipe("nowhere")
    recipe.trainer.channels_last = channels_last
    return ClassificationLearner(recipe.model.build(3, "abc"), recipe, 3, steps_per_epoch=1).double()


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


def test_mixed_batches_have_soft_targets() -> None:
    module = task(False)
    module.mix = Mixup(0.8, 1.0, label_smoothing=0, num_classes=3)
    seed_from(3)
    loss = module.training_step(batch([]), 0)
    seed_from(3)
    maps, targets = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=3)(batch([]).maps, batch([]).labels)
    assert 0 < targets.max(1).values.min() < 0.9
    expected = -(targets * F.log_softmax(module(maps), 1)).sum(1).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)  # timm's targets are float32


def test_an_odd_batch_is_mixed_in_pairs() -> None:
    module = task(False)
    module.mix = Mixup(0.8, num_classes=3)
    whole = batch([])
    part = Batch(whole.maps[:3], whole.labels[:3], whole.indices[:3], ["a: broken"])
    loss = module.training_step(part, 0)
    assert loss is not None
    assert torch.isfinite(loss)


def test_a_batch_without_readable_samples_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    module = task(False)
    empty = Batch(torch.empty(0), torch.empty(0, dtype=torch.int64), torch.empty(0), ["a: broken", "b: broken"])
    assert module.training_step(empty, 0) is None
    module.validation_step(empty, 0)
    assert module.unreadable == {"a: broken", "b: broken"}
    assert len(caplog.records) == 2


@pytest.mark.parametrize("forecasts", [False, True])
def test_a_pass_without_samples_has_gradients_of_zero_for_all_that_learns(forecasts: bool) -> None:
    recipe = forecast_recipe(Path("nowhere")) if forecasts else image_recipe("nowhere")
    module = recipe.task.learner(recipe.build("abc"), recipe, 3, steps_per_epoch=1)
    module(torch.empty(0, *module.map_shape)).sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


def test_forecasts_are_scored_over_numbers_not_batches() -> None:
    recipe = forecast_recipe(Path("nowhere"))
    module = recipe.task.learner(recipe.build("ab"), recipe, 2, steps_per_epoch=1).eval()
    truth = torch.randn(5, *module.blank_labels(1, module.map_shape).shape[1:])
    truth[1, :4] = torch.nan
    for part in (slice(0, 2), slice(2, 5)):
        maps = torch.zeros(len(truth[part]), *module.map_shape)
        module.score(Batch(maps, truth[part], torch.empty(0), []), module, raw=True)
    with torch.no_grad():
        errors = (module(torch.zeros(5, *module.map_shape)) - truth)[~truth.isnan()]
    torch.testing.assert_close(module.raw_scores["mae"].compute(), errors.abs().mean())  # type: ignore[operator, union-attr]
    torch.testing.assert_close(module.raw_scores["loss"].compute(), errors.square().mean())  # type: ignore[operator, union-attr]
    assert not module.scores["mae"].update_called  # type: ignore[union-attr]


def test_mean_losses_are_means_over_samples() -> None:
    module = task(False)
    whole = batch([])
    parts = [Batch(whole.maps[a:b], whole.labels[a:b], whole.indices[a:b], []) for a, b in ((0, 3), (3, 4))]
    module.eval()
    with torch.no_grad():
        for part in parts:
            module.training_step(part, 0)
            module.validation_step(part, 0)
        logits = module(whole.maps)
    smoothed = F.cross_entropy(logits, whole.labels, label_smoothing=0.1)
    torch.testing.assert_close(module.loss.compute().double(), smoothed, rtol=1e-6, atol=0)
    plain = F.cross_entropy(logits, whole.labels)
    torch.testing.assert_close(module.scores["loss"].compute().double(), plain, rtol=1e-6, atol=0)
