"""What reports say, and that they are sound HTML; how they look is asked of a browser in test_browser."""

import io
import itertools
import json
import os
import re
import shutil
from base64 import b64decode
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.report.page import Page, contrast, palettes
from tests.runs import FixedDetector, image_recipe, untrained_run, write_tree
from unireplknet.cli import main
from unireplknet.data.split import LabeledData, Split
from unireplknet.deploy.merge import merged_copy
from unireplknet.modalities import SOURCES
from unireplknet.modalities.image import ImageInput
from unireplknet.report import sections, write_report
from unireplknet.report.document import Document, Facts, Table
from unireplknet.report.material import Material
from unireplknet.tasks.classify import report as classify_report
from unireplknet.tasks.classify.score import evaluate
from unireplknet.tasks.classify.task import Classification
from unireplknet.tasks.detect import report as detect_report
from unireplknet.training.recipe import Data
from unireplknet.training.run import Run, fit

TASKS = ("classification", "forecasting", "segmentation", "detection")

COMMON = ["Configuration", "Data", "Course of training"]

SECTIONS = {
    "classification": ["Scores", "Confusion", "Mistakes", "Stages", "Receptive field", "Kernels", "Export"],
    "forecasting": ["Scores", "Receptive field", "Kernels", "Export"],
    "segmentation": ["Scores", "Masks", "Receptive field", "Kernels", "Export"],
    "detection": ["Scores", "Boxes", "Mistakes", "Receptive field", "Kernels", "Export"],
}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("task", TASKS)
def test_sections_follow_the_task(task: str, reports: dict[str, Path]) -> None:
    page = Page(read(reports[task]))
    assert page.text("h2") == COMMON + SECTIONS[task]
    assert len(page.text("h1")) == 1
    assert not [text for text in page.text("p") if text.startswith("Not shown")]


@pytest.mark.parametrize("task", TASKS)
def test_pages_load_nothing_and_run_nothing(task: str, reports: dict[str, Path]) -> None:
    html = read(reports[task])
    page = Page(html)
    assert not page.all("script")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    addresses = [value for _, attrs in page.tags for name in ("src", "href") if (value := attrs.get(name)) is not None]
    assert {re.split("[:,;]", address)[0] if address[0] != "#" else "#" for address in addresses} == {"#", "data"}
    assert "http" not in re.sub(r'"[^"]*"|http-equiv', "", html.partition("</style>")[0])
    assert "url(" not in html
    assert "@import" not in html
    assert reports[task].stat().st_size < 1_500_000


@pytest.mark.parametrize("task", TASKS)
def test_pages_can_be_read_without_seeing_them(task: str, reports: dict[str, Path]) -> None:
    page = Page(read(reports[task]))
    assert page.all("html")[0]["lang"] == "en"
    assert "width=device-width" in next(m["content"] for m in page.all("meta") if m.get("name") == "viewport")
    pictures = page.all("img")
    assert len(pictures) >= 3
    assert all(len(picture["alt"].split()) > 5 for picture in pictures)
    assert len({picture["alt"] for picture in pictures}) == len(pictures)
    for picture in pictures:
        content = Image.open(io.BytesIO(b64decode(picture["src"].partition(",")[2])))
        assert content.size == (int(picture["width"]), int(picture["height"]))
        assert len(content.convert("RGB").getcolors(2**24)) > 1
    regions = [attrs for _, attrs in page.tags if attrs.get("class") == "scroll"]
    assert regions
    assert all(r["role"] == "region" and r["tabindex"] == "0" and r["aria-label"] for r in regions)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {link["href"].removeprefix("#") for link in page.all("a")} <= set(ids)
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(headings))
    assert all("scope" in head for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))


def test_colours_can_be_told_apart_in_every_mode(reports: dict[str, Path]) -> None:
    assert contrast("#000000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # WCAG's own example of too little
    for mode, colours in palettes(read(reports["classification"])).items():
        for ink in ("ink", "muted", "link"):
            for ground in ("paper", "raised"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (mode, ink, ground)


def test_scores_are_those_of_evaluate(trained: Run, reports: dict[str, Path]) -> None:
    _, scores = evaluate(trained)
    summary = scores.summary(trained.classes)
    html, page = read(reports["classification"]), Page(read(reports["classification"]))
    assert f"{summary['top1']:.2%}" in page.text("dd")
    assert f"{round(summary['top1'] * summary['samples'])} of {summary['samples']}" in html
    assert all(name in page.text("th") for name in trained.classes)
    assert "broken.png" in html, "the unreadable sample is named"


def test_settings_that_differ_come_first(trained: Run, reports: dict[str, Path], tmp_path: Path) -> None:
    html = read(reports["classification"])
    differing, everything = html.index("Settings that differ"), html.index("All settings")
    assert differing < html.index("optim.batch_size") < everything
    assert html.count("optim.batch_size") == 2
    assert html.count("optim.weight_decay") == 1, "it has its default"


def test_values_of_a_recipe_are_no_differences(tmp_path: Path) -> None:
    from unireplknet.recipes import find_recipe

    recipe = find_recipe("digits").override(["--optim.epochs", "3"])
    recipe.save(tmp_path / "config.yaml")
    (tmp_path / "classes.txt").write_text("0\n1\n")
    html = read(write_report(Run.open(tmp_path)))
    differing = html[html.index("Settings that differ") : html.index("<details>")]
    assert re.findall(r'<th scope="row">([^<]+)', differing) == ["optim.epochs"]


def test_baselines_stand_beside_forecasts(forecaster: Run, reports: dict[str, Path]) -> None:
    scores = json.loads(read(forecaster.path / "evaluation-test.json"))["scores"]
    page = Page(read(reports["forecasting"]))
    assert set(scores) <= set(page.text("th"))
    for errors in scores.values():
        assert f"{errors['temp']['mse']:.4g}" in page.text("td")


def test_masks_have_the_iou_of_each_class(segmenter: Run, reports: dict[str, Path]) -> None:
    found = json.loads(read(segmenter.path / "evaluation-test.json"))
    page = Page(read(reports["segmentation"]))
    assert f"{found['miou']:.2%}" in page.text("dd")
    for row in found["per_class"].values():
        assert ("no pixels" if row["iou"] is None else f"{row['iou']:.2%}") in page.text("td")
    assert len([p for p in page.all("img") if "class of each pixel in colour" in p["alt"]]) == 3


def test_boxes_have_the_scores_of_coco(detector: Run, reports: dict[str, Path]) -> None:
    found = json.loads(read(detector.path / "evaluation-test.json"))
    page = Page(read(reports["detection"]))
    cells = page.text("td")
    for kind in ("box", "mask"):
        shown = ["none to find" if value is None else f"{value:.2%}" for value in found[kind].values()]
        at = cells.index(shown[0])
        assert any(cells[i : i + 7] == shown for i in range(at, len(cells)))
        assert f"{kind} AP, test split" in page.text("dt")
    assert set(found["per_class"]) <= set(page.text("th"))
    assert len([p for p in page.all("img") if "with true boxes and with those that were found" in p["alt"]]) == 3


def test_the_surest_wrong_boxes_are_shown_and_told(
    detector: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = Material(detector, "train", "", tmp_path)
    recipe, split = material.recipe, material.data.splits["train"]
    found = []
    for item in split.items:
        _, truth = recipe.input.to_map(recipe.input.read(item))
        count = len(truth["labels"])
        found.append({k: truth[k] for k in ("boxes", "labels", "masks")} | {"scores": torch.full((count,), 0.7)})
    monkeypatch.setattr(Run, "load_model", lambda self: FixedDetector(found))
    objects = sum(len(each["labels"]) for each in found)
    (text,) = detect_report.box_mistakes(material).parts
    assert f"find {objects} of {objects} objects" in text.text
    assert "0 boxes stand for none" in text.text

    first, second, third, *_ = found
    first["labels"][0] = 1 - first["labels"][0]
    first["scores"][0] = 0.9
    for name, value in second.items():
        second[name] = torch.cat([value, value[:1]])
    third["boxes"][1] = torch.tensor([0.0, 0.0, 2.0, 2.0])
    third["scores"] = torch.tensor([0.7, 0.4])
    text, shown = detect_report.box_mistakes(material).parts
    assert f"find {objects - 2} of {objects} objects" in text.text
    assert "2 boxes stand for none" in text.text, "a score of 0.4 is not told"
    wrong, double = shown.samples
    names = detector.classes
    assert (wrong.said, wrong.sure) == (names[first["labels"][0]], "90.0%")
    assert wrong.truth == f"{names[1 - first['labels'][0]]}, of the same place by 100%"
    assert wrong.name == str(split.items[0].image)
    assert double.truth == f"{double.said}, found already"


def test_an_evaluation_by_windows_is_found(segmenter: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(segmenter.path, tmp_path / "run"))
    config = run.path / "config.yaml"
    config.write_text(read(config).replace("inference: whole", "inference: sliding"), encoding="utf-8")
    found = Material(run, "", "", tmp_path).evaluation
    assert found == json.loads(read(run.path / "evaluation-test-sliding.json"))
    assert found["window"] == 32


def test_an_evaluation_of_an_older_checkpoint_is_done_anew(segmenter: Run, reports: object, tmp_path: Path) -> None:
    run = Run(shutil.copytree(segmenter.path, tmp_path / "run"))
    file = run.path / "evaluation-test.json"
    right = json.loads(read(file))
    file.write_text(json.dumps(right | {"miou": 0.5}), encoding="utf-8")
    assert Material(run, "", "", tmp_path).evaluation["miou"] == 0.5, "it is read, not done again"
    os.utime(file, (0, 0))
    assert Material(run, "", "", tmp_path).evaluation == right == json.loads(read(file))


NASTY = ('<script>alert("x")</script>', "a & b's <b>", "$x$ {{ 7 * 7 }}")


def test_names_from_data_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        items = [rng.integers(0, 255, (8, 8), dtype=np.uint8) for _ in range(count)]
        return Split(items, np.arange(count) % 3)

    made = LabeledData(NASTY, {"train": split(3), "val": split(3), "test": split(9)})
    monkeypatch.setitem(SOURCES, "nasty", lambda path, inputs: made)
    inputs = ImageInput(size=8, channels=1, mean=(0.5,), std=(0.5,))
    run = untrained_run(tmp_path / "run", inputs, NASTY, data=Data("nasty", "somewhere <i>"))
    material = Material(run, "", "", tmp_path)
    makers = (
        sections.configuration,
        sections.data,
        classify_report.class_scores,
        classify_report.confusion,
        classify_report.mistakes,
    )
    page = Page(Document(NASTY[0], NASTY[1], [NASTY[:2]], [make(material) for make in makers], NASTY[2]).html())
    assert not page.all("script")
    assert not page.all("b")
    assert not page.all("i")
    assert set(NASTY) <= set(page.text("th"))
    assert page.text("h1") == page.text("title") == [NASTY[0]]
    assert "49" not in [text.split()[-1] for text in page.text("th")], "nothing is computed of a name"
    assert len(page.all("li")) > 10, "mistakes are shown"


def test_without_data_the_rest_is_there_and_says_so(trained: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(trained.path, tmp_path / "run"))
    config = run.path / "config.yaml"
    config.write_text(read(config).replace(trained.recipe.data.path, "gone"), encoding="utf-8")
    page = Page(read(write_report(run)))
    assert {"Configuration", "Data", "Course of training", "Kernels", "Export"} <= set(page.text("h2"))
    reasons = [text for text in page.text("p") if text.startswith("Not shown")]
    assert len(reasons) == 5
    assert all("gone is not a folder" in reason for reason in reasons)
    moved = Page(read(write_report(run, data=trained.recipe.data.path)))
    assert not [text for text in moved.text("p") if text.startswith("Not shown")]


def test_a_run_that_has_only_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = untrained_run(tmp_path / "run", ImageInput(size=8), ("a", "b"), data=Data("folder", "nowhere"))
    (run.path / "best.ckpt").unlink()
    page = Page(read(write_report(run)))
    assert "epochs so far; the run is not finished" in page.text("dt")
    assert {"Configuration", "Data", "Class scores", "Export"} <= set(page.text("h2"))
    assert "Course of training" not in page.text("h2")
    assert any("best.ckpt is missing" in text for text in page.text("p"))

    monkeypatch.setattr(Classification, "sections", lambda self: ())  # as if the task were one that has none
    assert "Class scores" not in Page(read(write_report(run))).text("h2")


def test_samples_of_several_classes(tmp_path: Path) -> None:
    write_tree(tmp_path / "data", count=8)
    (tmp_path / "data" / "red" / "broken.png").unlink()
    lines = [f"{c}/{i:02}.png,{c};{'even' if i % 2 else 'odd'}" for c in ("red", "blue") for i in range(8)]
    (tmp_path / "data" / "list.csv").write_text("path,labels\n" + "\n".join(lines) + "\n")
    recipe = image_recipe(tmp_path / "data" / "list.csv", epochs=1)
    recipe.data.source, recipe.optim.loss, recipe.trainer.select = "list", "bce", "map"
    material = Material(fit(recipe, tmp_path / "run"), "", "", tmp_path)
    assert classify_report.confusion(material) is None
    assert classify_report.mistakes(material) is None
    _, facts, table, *_ = classify_report.class_scores(material).parts
    assert isinstance(facts, Facts)
    assert isinstance(table, Table)
    assert [name for name, _ in facts.rows] == ["Mean average precision"]
    assert {row[0] for row in table.rows} == {"red", "blue", "even", "odd"}


def test_exported_files_are_compared_and_others_named(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(shutil.copytree(trained.path, tmp_path / "run"))

    def rows() -> dict[str, str]:
        (part,) = sections.exports(Material(run, "", "", tmp_path)).parts
        return {row[0]: row[3] for row in part.rows} if isinstance(part, Table) else {"": part.text}

    assert rows() == {"": "Not exported."}
    (run.path / "model.tflite").write_bytes(b"something")
    (run.path / "model.openvino").mkdir()
    (run.path / "model.onnx").write_bytes(b"no network")
    checks = rows()
    assert checks.pop("model.tflite") == checks.pop("model.openvino") == "not checked here"
    assert checks.pop("model.onnx").startswith(("cannot be run", "not checked: "))
    assert not checks

    class Merged:
        """What a sound file does."""

        def __init__(self, path: Path) -> None:
            assert path.name == "model.onnx"

        def load_model(self) -> torch.nn.Module:
            return merged_copy(run.load_model())

    monkeypatch.setattr("unireplknet.deploy.exported.Exported.open", staticmethod(Merged))
    assert float(rows()["model.onnx"].rpartition(" ")[2]) < 1e-4
    monkeypatch.setattr(Merged, "load_model", lambda self: run.first_model())
    assert float(rows()["model.onnx"].rpartition(" ")[2]) > 1e-2


def test_the_template_is_a_file_of_the_package() -> None:
    assert resources.files("unireplknet.report").joinpath("report.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere is not a run folder"),
        (["RUN", "--out", "nowhere/report.html"], "cannot be written: expected a file in a folder that exists"),
        (["RUN", "--split", "all"], "invalid choice"),
    ],
)
def test_mistakes(words: list[str], message: str, trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *(str(trained.path) if word == "RUN" else word for word in words)]) == 2
    captured = capsys.readouterr().err
    assert message in captured
    assert captured.count("\n") == 1
