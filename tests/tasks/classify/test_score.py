import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import expit, softmax
from sklearn.metrics import balanced_accuracy_score

from tests.runs import COLORS, image_recipe, write_tree
from unireplknet.data.dataset import Draw
from unireplknet.errors import UserError
from unireplknet.modalities.image import ImageInput
from unireplknet.tasks.classify.score import Scores, evaluate, nearest_neighbour, predict, score, show_mistakes
from unireplknet.training.loader import build_loader
from unireplknet.training.run import Run, new_folder


def test_summary_counts_what_numpy_counts() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 8)), rng.integers(0, 7, 200)  # class 7 has no samples
    summary = Scores(torch.tensor(logits), torch.tensor(labels), torch.arange(200), []).summary("abcdefgh")
    order = np.argsort(-logits, 1)
    assert summary["top1"] == pytest.approx((order[:, 0] == labels).mean())
    assert summary["top5"] == pytest.approx((order[:, :5] == labels[:, None]).any(1).mean())
    for i, name in enumerate("abcdefg"):
        expected = (order[labels == i, 0] == i).mean()
        assert summary["per_class"][name] == {
            "accuracy": pytest.approx(expected),
            "samples": int((labels == i).sum()),
        }
    assert summary["per_class"]["h"] == {"accuracy": None, "samples": 0}


def test_confusion_has_true_classes_as_rows() -> None:
    logits = torch.eye(3)[[0, 1, 1, 2]]
    matrix = Scores(logits, torch.tensor([0, 0, 1, 2]), torch.arange(4), []).confusion(3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("classes", [2, 3])
def test_fewer_than_five_classes(classes: int) -> None:
    summary = Scores(torch.eye(classes), torch.arange(classes), torch.arange(classes), []).summary("abc"[:classes])
    assert summary["top1"] == summary["top5"] == 1


def test_evaluation_is_written_down(trained: Run) -> None:
    name, scores = evaluate(trained)
    assert name == "test"
    written = json.loads((trained.path / "evaluation-test.json").read_text())
    assert written == {"split": "test"} | scores.summary(trained.classes)
    for picture in ("confusion-test.png", "predictions-test.png"):
        with Image.open(trained.path / picture) as image:
            assert min(image.size) > 100


def test_mistakes_are_the_wrong_ones_the_surest_first(trained: Run) -> None:
    split = trained.load_data().splits["test"]
    labels = torch.as_tensor(split.labels)
    indices = torch.arange(len(labels)).flip(0)[:6]  # as if others were unreadable
    said = (labels[indices] + torch.tensor([0, 1, 2, 0, 1, 1])) % 3
    logits = torch.eye(3)[said] * torch.tensor([9.0, 1.0, 3.0, 2.0, 0.5, 2.0])[:, None]
    shown = show_mistakes(trained, split, Scores(logits, labels[indices], indices, []), count=3)
    places = indices[[2, 5, 1]].tolist()
    assert [s.name for s in shown] == [split.name(i) for i in places]
    assert [s.truth for s in shown] == [trained.classes[split.labels[i]] for i in places]
    assert [s.said for s in shown] == [trained.classes[i] for i in said[[2, 5, 1]].tolist()]
    np.testing.assert_allclose([s.probability for s in shown], np.exp(x := np.array([3, 2, 1])) / (np.exp(x) + 2))
    for s in shown:
        assert np.abs(s.picture.mean((0, 1)) - COLORS[s.truth]).max() < 25, "the picture is of that sample"


def test_unknown_split_is_named(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_tree(tmp_path / "data" / split, count=3)
    run = Run.create(new_folder("", tmp_path / "run"), image_recipe(tmp_path / "data"), tuple(COLORS))
    with pytest.raises(UserError, match="have no test split, only train, val"):
        evaluate(run, "test")


def test_predictions_are_right_and_in_order(trained: Run) -> None:
    data = Path(trained.recipe.data.path)
    files = [data / "red" / "03.png", data / "blue" / "01.png"]
    predictions = predict(trained, files, top=2)
    assert [p.file for p in predictions] == [str(f) for f in files]
    assert [p.classes[0] for p in predictions] == ["red", "blue"]
    for p in predictions:
        assert len(p.classes) == len(p.probabilities) == 2
        assert p.probabilities[0] > p.probabilities[1]


def test_pictures_of_what_was_seen(trained: Run, tmp_path: Path) -> None:
    data = Path(trained.recipe.data.path)
    files = [data / "red" / "03.png", data / "red" / "broken.png", data / "blue" / "03.png"]
    predictions = predict(trained, files, pictures=tmp_path / "new")
    assert [Path(p.picture).name for p in predictions] == ["03-seen.png", "", "03-2-seen.png"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["03-2-seen.png", "03-seen.png"]
    for prediction, colour in ((predictions[0], "red"), (predictions[2], "blue")):
        pixels = np.asarray(Image.open(prediction.picture).convert("RGB")).astype(int)
        close = np.abs(pixels - COLORS[colour]).sum(2) < 60
        assert close.mean() > 0.05


def test_folders_are_searched_and_unreadable_files_counted(trained: Run, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(trained.recipe.data.path) / "red"
    with caplog.at_level(logging.WARNING):
        predictions = predict(trained, [folder], top=99)
    assert len(predictions) == 17
    assert all(len(p.classes) == 3 for p in predictions if not p.problem)
    (bad,) = [p for p in predictions if p.problem]
    assert bad.file.endswith("broken.png")
    assert not bad.classes
    assert "skipped unreadable sample 1" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere.png", "nowhere.png does not exist"),
        (lambda p: p, "has no files ending in .bmp"),
    ],
)
def test_nothing_to_predict(trained: Run, tmp_path: Path, make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        predict(trained, [make(tmp_path)])  # type: ignore[operator]


def test_only_unreadable_files(trained: Run) -> None:
    with pytest.raises(UserError, match=r"none of the samples could be read; the first: .*broken.png"):
        predict(trained, [Path(trained.recipe.data.path) / "red" / "broken.png"])


def test_nearest_neighbour_finds_the_colours(trained: Run) -> None:
    assert nearest_neighbour(trained, trained.load_data()) > 0.9


class SeenTwice(ImageInput):
    """As it is and with its colours exchanged."""

    def to_views(self, image: Image.Image) -> torch.Tensor:
        pixels = self.to_map(image)
        return torch.stack([pixels, pixels.roll(1, 0)])


def test_probabilities_of_several_views_are_averaged(trained: Run) -> None:
    model, split = trained.load_model(), trained.load_data().splits["test"]
    recipe = trained.recipe
    once = score(model, build_loader(recipe, split, views=True))
    maps = torch.cat([batch.maps for batch in build_loader(recipe, split)])
    with torch.inference_mode():
        direct, other = (model.double()(m.double()).numpy() for m in (maps, maps.roll(1, 1)))
    np.testing.assert_allclose(once.logits, direct, atol=1e-4)  # one view: the logits themselves

    recipe = replace(recipe, input=SeenTwice(**asdict(recipe.input)))
    twice = score(model.float(), build_loader(recipe, split, views=True))
    expected = (softmax(direct, 1) + softmax(other, 1)) / 2
    np.testing.assert_allclose(twice.logits.exp(), expected, atol=1e-5)
    assert np.abs(expected - softmax(direct, 1)).max() > 0.1, "the views differ"
    several = score(model, build_loader(recipe, split, views=True), "bce")
    expected = (expit(direct) + expit(other)) / 2
    np.testing.assert_allclose(several.logits.sigmoid(), expected, atol=1e-5)
    assert build_loader(recipe, split).dataset[Draw(0, 0)].map.ndim == 3, "training sees one view"


def test_mean_class_accuracy_is_sklearns_balanced_accuracy() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(90, 5)), rng.choice(4, 90, p=[0.7, 0.1, 0.1, 0.1])
    logits += 2 * np.eye(5)[labels] * (labels == 0)[:, None]
    logits[:, 4] = -9  # neither there nor predicted, so that sklearn leaves it out without a warning
    summary = Scores(torch.tensor(logits), torch.tensor(labels), torch.arange(90), []).summary("abcde")
    expected = balanced_accuracy_score(labels, logits.argmax(1))
    assert summary["mean_class_accuracy"] == pytest.approx(expected)
    assert abs(expected - summary["top1"]) > 0.01
