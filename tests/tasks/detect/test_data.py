import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.runs import BOX_CLASSES, BOX_NUMBERS, coco_table, write_objects
from unireplknet.errors import UserError
from unireplknet.tasks.detect.data import Box, load_box_table, load_coco
from unireplknet.tasks.detect.inputs import DetectInput

GOOD = {"image_id": 0, "category_id": BOX_NUMBERS[0], "bbox": [10, 5, 20, 10], "area": 200, "iscrowd": 0}


def write(root: Path, *annotations: dict[str, Any], images: int = 1) -> Path:
    """Images of 64 x 48 pixels and a table with the annotations."""
    (root / "images").mkdir(parents=True)
    for i in range(images):
        Image.new("RGB", (64, 48)).save(root / "images" / f"{i}.png")
    entries = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(images)]
    (root / "instances.json").write_text(json.dumps(coco_table(entries, list(annotations))), encoding="utf-8")
    return root


def test_classes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path, GOOD, GOOD | {"category_id": BOX_NUMBERS[1], "bbox": [0, 0, 5, 5], "iscrowd": 1}))
    assert data.names == BOX_CLASSES[::-1]
    [item] = data.splits["all"].items
    assert item.boxes == (Box((10, 5, 30, 15), 1, False, 200), Box((0, 0, 5, 5), 0, True, 200))
    assert item.size == (64, 48)


def test_layouts(tmp_path: Path) -> None:
    """As COCO unpacks, as ``fetch scenes`` writes, and one table alone."""
    for name in ("train2017", "val2017"):
        root = write_objects(tmp_path / name, 4)
        target = tmp_path / "coco" / name
        target.parent.mkdir(exist_ok=True)
        (root / "images").rename(target)
        (tmp_path / "coco" / "annotations").mkdir(exist_ok=True)
        (root / "instances.json").rename(tmp_path / "coco" / "annotations" / f"instances_{name}.json")
        write_objects(tmp_path / "parts" / name.removesuffix("2017"), 4)
    whole = write_objects(tmp_path / "whole", 20)
    for path, splits in (("coco", ["train", "val"]), ("parts", ["train", "val"]), ("whole", ["all"])):
        data = load_coco(tmp_path / path)
        assert list(data.splits) == splits
        assert all(item.image.is_file() for split in data.splits.values() for item in split.items)
    divided = load_coco(whole).split(0.25, 0.2, 0)
    assert {name: len(split) for name, split in divided.splits.items()} == {"train": 12, "val": 4, "test": 4}
    names = [item.image.name for split in divided.splits.values() for item in split.items]
    assert len(set(names)) == 20
    assert len(load_coco(tmp_path / "coco").split(0.25, 0.2, 0).splits) == 2
    (tmp_path / "coco" / "annotations" / "instances_train2014.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"instances_train2014.json and .*instances_train2017.json are both for train"):
        load_coco(tmp_path / "coco")


@pytest.mark.parametrize("folder", ["images/default", "images", "default"])
def test_what_is_not_divided_as_a_tool_exports_it(folder: str, tmp_path: Path) -> None:
    whole = write_objects(tmp_path / "whole", 4)
    (tmp_path / "out" / "annotations").mkdir(parents=True)
    (whole / "instances.json").rename(tmp_path / "out" / "annotations" / "instances_default.json")
    (tmp_path / "out" / folder).parent.mkdir(exist_ok=True)
    (whole / "images").rename(tmp_path / "out" / folder)
    data = load_coco(tmp_path / "out")
    assert list(data.splits) == ["all"]
    assert all(item.image.is_file() for item in data.splits["all"].items)
    (tmp_path / "out" / "annotations" / "instances_Train.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"instances_default.json stands beside tables of parts"):
        load_coco(tmp_path / "out")


def test_images_without_annotations_are_kept_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = load_coco(write(tmp_path, GOOD, images=3))
    assert [len(item.boxes) for item in data.splits["all"].items] == [1, 0, 0]
    assert f"{tmp_path / 'instances.json'}: nothing is to be found in 2 of 3 images" in caplog.text


@pytest.mark.parametrize(
    "bbox", [[10, 5, 0, 10], [10, 5, 10, -1], [64, 5, 10, 10], [-20, 5, 20, 10], [float("nan"), 5, 9, 9]]
)
def test_boxes_without_an_area_are_counted_and_named(
    bbox: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        data = load_coco(write(tmp_path, GOOD, GOOD | {"bbox": bbox}))
    assert len(data.splits["all"].items[0].boxes) == 1
    assert "left out 1 of 2 boxes or masks without an area in the image: annotation 2 of 0.png" in caplog.text


def test_boxes_are_cut_off_at_the_edges(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path, GOOD | {"bbox": [-5, 40, 100, 20]}))
    assert data.splits["all"].items[0].boxes[0].corners == (0, 40, 64, 48)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 99}, r"annotation 1 has category_id 99; there are 2 categories, 3 to 7"),
        ({"image_id": 5}, r"annotation 1 is of image 5, which the table has not"),
        ({"bbox": [1, 2, 3]}, r"annotation 1 has no bbox of four numbers: \[1, 2, 3\]"),
        ({"bbox": None}, r"annotation 1 has no bbox of four numbers: None"),
        ({"area": "large"}, r"annotation 1 has an area that is no number: 'large'"),
        ({"image_id": [0]}, r"'image_id' is missing in \{'id': 1"),
    ],
)
def test_wrong_annotations_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_coco(write(tmp_path, GOOD | change))


@pytest.mark.parametrize("crowd", [0, 1])
def test_objects_without_a_mask_are_named_where_masks_are_wanted(crowd: int, tmp_path: Path) -> None:
    """Crowds too: what is found in one counts for nothing, of masks by its mask."""
    outline = [[1, 1, 5, 1, 5, 5, 1, 5]]
    root = write(tmp_path, GOOD | {"segmentation": outline}, GOOD | {"iscrowd": crowd})
    assert len(load_coco(root).splits["all"].items[0].boxes) == 2
    with pytest.raises(UserError, match=r"annotation 2 has no segmentation"):
        load_coco(root, masks=True)


def test_outlines_without_an_area_are_left_out_where_masks_are_wanted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They would be learnt as objects of no pixel, and missed by whatever is found."""
    good, line = [[1, 1, 5, 1, 5, 5, 1, 5], [3, 3]], [[1, 1, 5, 5], [3, 3]]
    root = write(tmp_path, GOOD | {"segmentation": good}, GOOD | {"segmentation": line})
    assert len(load_coco(root).splits["all"].items[0].boxes) == 2
    caplog.set_level(logging.WARNING)
    [item] = load_coco(root, masks=True).splits["all"].items
    assert [json.loads(box.outline) for box in item.boxes] == [good]
    assert "left out 1 of 2 boxes or masks without an area in the image: annotation 2 of 0.png" in caplog.text


def images_of(root: Path, *entries: Any) -> Path:
    """The folder with another list of images in its table."""
    table = root / "instances.json"
    content = json.loads(table.read_text(encoding="utf-8"))
    table.write_text(json.dumps(content | {"images": list(entries)}), encoding="utf-8")
    return root


def test_sizes_need_not_be_told(tmp_path: Path) -> None:
    """Some tools write null; boxes are then cut off when the image is read."""
    root = write(tmp_path, GOOD | {"bbox": [60, 40, 100, 100]})
    unknown = {"id": 0, "file_name": "0.png", "width": None, "height": None}
    [item] = load_coco(images_of(root, unknown)).splits["all"].items
    assert item.size is None
    assert DetectInput().read(item)[1]["boxes"].tolist() == [[60, 40, 64, 48]]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": 0, "file_name": "other.png"}, r"has two images with the id 0, 0.png and other.png"),
        ({"id": 1, "file_name": "1.png", "width": "wide", "height": 5}, r"1.png is said to be 'wide' x 5 pixels"),
        ({"id": 1, "file_name": None}, r"'file_name' is missing"),
        (["1.png"], r"'id' is missing in \['1.png'\]"),
    ],
)
def test_wrong_images_are_named(entry: Any, message: str, tmp_path: Path) -> None:
    good = {"id": 0, "file_name": "0.png", "width": 64, "height": 48}
    with pytest.raises(UserError, match=message) as error:
        load_coco(images_of(write(tmp_path, GOOD), good, entry))
    assert "\n" not in str(error.value)


def test_annotations_that_are_no_tables(tmp_path: Path) -> None:
    table = write(tmp_path, GOOD) / "instances.json"
    content = json.loads(table.read_text(encoding="utf-8"))
    table.write_text(json.dumps(content | {"annotations": [7]}), encoding="utf-8")
    with pytest.raises(UserError, match=r"is not in COCO's form: 'image_id' is missing in 7"):
        load_coco(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "cannot be read"),
        ("[]", "not in COCO's form: expected lists of images, annotations and categories"),
        ('{"images": [], "annotations": [], "categories": []}', "names no images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "'file_name' is missing"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "a category is not in COCO's form"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}', "twice"),
    ],
)
def test_what_is_no_table_is_said_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        load_coco(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_images_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Before hours of training have come to the first of them."""
    root = write(tmp_path, GOOD, images=9)
    caplog.set_level(logging.WARNING)
    load_coco(root)
    assert caplog.text == ""
    for i in range(1, 8):
        (root / "images" / f"{i}.png").unlink()
    assert len(load_coco(root).splits["all"]) == 9
    assert (
        f"{root / 'instances.json'}: 7 of 9 images are missing: 1.png, 2.png, 3.png, 4.png, 5.png, ..." in caplog.text
    )


def test_nothing_to_train_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no boxes to train with; .* or instances.json in it$"):
        load_coco(tmp_path)
    (tmp_path / "boxes.csv").write_text(TABLE, encoding="utf-8")
    for path in (tmp_path, tmp_path / "boxes.csv"):
        with pytest.raises(UserError, match=r"tables in CSV are for data.source box_table"):
            load_coco(path)
    with pytest.raises(UserError, match="none of the 3 images of the train split has a box"):
        load_coco(write(tmp_path / "empty", images=5)).split(0.25, 0.2, 0)
    root = write(tmp_path / "gone", GOOD, images=2)
    (root / "images" / "0.png").unlink()
    assert len(load_coco(root).splits["all"]) == 2  # one is an unreadable sample
    (root / "images" / "1.png").unlink()
    with pytest.raises(UserError, match=r"0.png is missing, and so are all of the 2 images"):
        load_coco(root)


def test_other_categories_in_another_part(tmp_path: Path) -> None:
    write(tmp_path / "train", GOOD)
    table = write(tmp_path / "val", GOOD) / "instances.json"
    table.write_text(table.read_text(encoding="utf-8").replace('"blue"', '"green"'), encoding="utf-8")
    with pytest.raises(UserError, match=r"has the category 'green', which the training part has not"):
        load_coco(tmp_path)


TABLE = """file,x1,y1,x2,y2,class
0.png,10,5,30,15,red
1.png,,,,,
0.png,0,0,5,5.5,blue
0.png,9,9,9,12,blue
"""


def test_tables_of_boxes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(2):
        Image.new("RGB", (64, 48)).save(tmp_path / f"{i}.png")
    (tmp_path / "boxes.csv").write_text(TABLE, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        data = load_box_table(tmp_path)
    assert data.names == ("blue", "red")
    items = data.splits["all"].items
    assert [item.image for item in items] == [tmp_path / "0.png", tmp_path / "1.png"]
    assert items[0].boxes == (Box((10, 5, 30, 15), 1, area=200), Box((0, 0, 5, 5.5), 0, area=27.5))
    assert items[1].boxes == ()
    assert "left out 1 of 3 boxes or masks without an area in the image: line 5 (0.png)" in caplog.text
    assert load_box_table(tmp_path / "boxes.csv") == data
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text(TABLE, encoding="utf-8")
    assert list(load_box_table(tmp_path).splits) == ["train", "val"]
    (tmp_path / "val.csv").write_text(TABLE.replace("red", "green"), encoding="utf-8")
    with pytest.raises(UserError, match=r"val.csv, line 2: the class 'green' is not in the training part"):
        load_box_table(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,x,y\n", r"has not the columns file, x1, y1, x2, y2, class"),
        ("file,x1,y1,x2,y2,class\n0.png,a,1,2,3,red\n", r"line 2: the corners of a box are four numbers"),
        ("file,x1,y1,x2,y2,class\n", r"names no images"),
        ("file,x1,y1,x2,y2,class\n9.png,1,1,2,3,red\n", r"9.png is missing"),
    ],
)
def test_wrong_tables_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_box_table(tmp_path)
    with pytest.raises(UserError, match="tables of boxes have no masks"):
        load_box_table(tmp_path, masks=True)


def test_a_fingerprint_follows_the_boxes(tmp_path: Path) -> None:
    first, same, other = (write(tmp_path / n, GOOD | {"bbox": [x, 5, 9, 9]}) for n, x in (("a", 1), ("b", 1), ("c", 2)))
    prints = [load_coco(root).splits["all"].fingerprint() for root in (first, same, other)]
    assert prints[0] == prints[1] != prints[2]
    outlined = [
        write(tmp_path / name, GOOD | {"segmentation": [[1, 1, 5, 1, 5, x]]}) for name, x in (("d", 5), ("e", 6))
    ]
    boxes, masks = ([load_coco(r, wanted).splits["all"].fingerprint() for r in outlined] for wanted in (False, True))
    assert boxes[0] == boxes[1]
    assert masks[0] != masks[1]
