from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import average_precision_score

from tests.runs import image_recipe
from unireplknet.data.dataset import Batch
from unireplknet.data.split import LabeledData, Split
from unireplknet.errors import UserError
from unireplknet.randomness import seed_from
from unireplknet.tasks.classify.labels import check_labels, class_loss, class_probabilities, class_targets
from unireplknet.tasks.classify.learn import ClassificationLearner
from unireplknet.tasks.classify.score import Scores

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (5, 3))
SEVERAL = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]], float)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("one", [True, False])
def test_bce_by_its_definition(one: bool, smoothing: float) -> None:
    labels = torch.tensor([0, 1, 2, 1, 0]) if one else torch.tensor(SEVERAL)
    targets = (np.eye(3)[labels.numpy()] if one else SEVERAL) * (1 - smoothing) + smoothing / 3
    expected = -(targets * np.log(expit(LOGITS)) + (1 - targets) * np.log(1 - expit(LOGITS))).mean()
    loss = class_loss(torch.tensor(LOGITS), class_targets(labels, 3, "bce"), "bce", smoothing)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_probabilities_are_of_each_class_or_of_all_together() -> None:
    logits = torch.tensor(LOGITS)
    np.testing.assert_allclose(class_probabilities(logits, "bce"), expit(LOGITS))
    np.testing.assert_allclose(class_probabilities(logits, "cross_entropy").sum(1), 1)


def labelled(labels: np.ndarray) -> LabeledData:
    return LabeledData(("a", "b", "c"), {"train": Split(list(range(len(labels))), labels)})


@pytest.mark.parametrize(
    ("several", "loss", "select", "message"),
    [
        (True, "cross_entropy", "map", "add --optim.loss bce --trainer.select map"),
        (True, "bce", "accuracy", "add --optim.loss bce --trainer.select map"),
        (False, "bce", "map", "set it to accuracy or loss"),
        (True, "bce", "map", ""),
        (True, "bce", "loss", ""),
        (False, "bce", "accuracy", ""),
    ],
)
def test_settings_have_to_suit_the_samples(several: bool, loss: str, select: str, message: str) -> None:
    recipe = image_recipe("nowhere").override(["--optim.loss", loss, "--trainer.select", select])
    data = labelled(SEVERAL if several else np.arange(3))
    if not message:
        check_labels(recipe, data)
        return
    with pytest.raises(UserError, match=message):
        check_labels(recipe, data)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("one", [True, False])
def test_mixup_blends_what_is_to_be_said_as_it_blends_maps(one: bool) -> None:
    recipe = image_recipe("nowhere")
    recipe.optim.loss, recipe.optim.mixup, recipe.optim.label_smoothing = "bce", 1.0, 0.0
    module = ClassificationLearner(recipe.model.build(3, "abc"), recipe, 3, steps_per_epoch=1)
    seen: list[torch.Tensor] = []
    module.model.forward = lambda maps: seen.append(maps) or torch.zeros(len(maps), 3)  # type: ignore[method-assign]
    numbers = torch.arange(4.0)
    labels = torch.tensor([0, 1, 2, 1]) if one else torch.tensor(SEVERAL[:4]).float()
    seed_from(1)
    loss = module.objective(numbers.view(4, 1, 1, 1).expand(4, 3, 8, 8).clone(), labels)
    lam = 1 - (seen[0][0, 0, 0, 0] / 3).item()  # sample 0 is blended with sample 3
    assert 0.02 < lam < 0.98
    targets = torch.eye(3)[labels] if one else labels
    mixed = lam * targets + (1 - lam) * targets.flip(0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.zeros(4, 3), mixed)
    torch.testing.assert_close(loss, expected)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_validation_logs_scikit_learns_mean_average_precision() -> None:
    recipe = image_recipe("nowhere").override(["--optim.loss", "bce", "--trainer.select", "map"])
    module = ClassificationLearner(recipe.model.build(3, "abc"), recipe, 3, steps_per_epoch=1, several=True)
    logits = torch.tensor(LOGITS).float()
    module.model.forward = lambda maps: logits[maps[:, 0, 0, 0].long()]  # type: ignore[method-assign]
    logged: dict[str, Any] = {}
    module.log = lambda name, value, **_: logged.__setitem__(name, value)  # type: ignore[method-assign,assignment]
    numbers = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 8, 8)
    labels = torch.tensor(SEVERAL).float()
    for at in (slice(0, 3), slice(3, 5)):
        module.validation_step(Batch(numbers[at], labels[at], torch.arange(5)[at], []), 0)
    expected = average_precision_score(SEVERAL, LOGITS, average="macro")
    assert float(logged["val/map"].compute()) == pytest.approx(expected, rel=1e-6)
    assert "val/accuracy" not in logged


def test_summary_is_scikit_learns_average_precision() -> None:
    labels = np.concatenate([SEVERAL, np.zeros((5, 1))], 1)  # nothing has the last class
    logits = np.concatenate([LOGITS, RNG.normal(size=(5, 1))], 1)
    scores = Scores(torch.tensor(logits), torch.tensor(labels).float(), torch.arange(5), ["x: broken"])
    summary = scores.summary("abcd")
    each = [average_precision_score(SEVERAL[:, i], LOGITS[:, i]) for i in range(3)]
    assert summary["map"] == pytest.approx(np.mean(each), rel=1e-6)
    for name, expected, count in zip("abc", each, SEVERAL.sum(0), strict=True):
        assert summary["per_class"][name] == {"average_precision": pytest.approx(expected, rel=1e-6), "samples": count}
    assert summary["per_class"]["d"] == {"average_precision": None, "samples": 0}
    assert summary["unreadable"] == ["x: broken"]
