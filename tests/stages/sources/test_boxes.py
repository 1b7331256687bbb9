"""Sources of boxes: what their files say, and what is wrong with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from stillroom.stages.scenes.classes import THINGS
from stillroom.stages.sources.boxes import BoxesConfig, open_boxes
from stillroom.stages.sources.canvas import to_canvas
from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.stages.sources.source import Frame
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.sources.file_source import FileSource

NONE = [0, 0, 0, 0, -1]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (40, 20)).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


def yolo(root: Path, text: str, **settings: Any) -> FileSource:
    (root / "texts").mkdir(exist_ok=True)
    (root / "texts" / "a.txt").write_text(text)
    section = {"classes": ("cup", "cat"), "most": 3, **settings}
    return open_boxes(BoxesConfig(images=root / "photos", boxes=root / "texts", **section))


def coco(
    root: Path, *boxes: dict[str, Any], names: tuple[str, ...] = ("train/a.png",), **settings: Any
) -> FileSource:
    images = [
        {"id": 7 + place, "file_name": name, "height": 20, "width": 40}
        for place, name in enumerate(names)
    ]
    categories = [{"id": 9, "name": "cat"}, {"id": 4, "name": "cup"}]
    annotations = [{"image_id": 7, "category_id": 4, **box} for box in boxes]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(document))
    place = root / "instances.json"
    return open_boxes(BoxesConfig(images=root / "photos", boxes=place, **settings))


def test_yolo_s_shares_are_pixels_of_the_image_and_cut_to_it(photos: Path) -> None:
    source = yolo(photos, "1 0.5 0.5 0.25 0.5\n\n0 0.05 0.5 0.3 1\n")
    frame = source.load(0)
    expected = [[15, 5, 25, 15, 1], [0, 0, 8, 20, 0], NONE]
    np.testing.assert_allclose(frame.targets["boxes"], expected, atol=1e-5)
    assert (source.classes, frame.label, frame.faults) == (None, None, {})
    assert not source.load(1).targets["boxes"].any(), "without a file it is not known"
    assert [source.labelled(index) for index in (0, 1)] == [True, False]
    assert yolo(photos, "").load(0).targets["boxes"].tolist() == [NONE] * 3


def test_coco_s_categories_are_numbered_by_their_ids_and_crowds_are_passed_over(
    photos: Path,
) -> None:
    source = coco(
        photos,
        {"bbox": [2, 3, 10, 4], "category_id": 9},
        {"bbox": [0, 0, 40, 20], "iscrowd": 1},
        {"bbox": [30.5, 10, 20, 5]},
        most=4,
    )
    found = source.load(0).targets["boxes"].tolist()
    assert found == [[2, 3, 12, 7, 1], [30.5, 10, 40, 15, 0], NONE, NONE]
    assert "no image of this name" in source.load(1).faults["boxes"]
    named = coco(photos, {"bbox": [2, 3, 10, 4]}, classes=("dog", "cup"))
    assert named.load(0).targets["boxes"][0].tolist() == [2, 3, 12, 7, 1]
    other = coco(photos, {"bbox": [2, 3, 10, 5]}, classes=("dog", "cup"))
    assert named.identity() != other.identity(), "the file's content decides the boxes"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 0.5 0.5 0 0.5", "has no size"),
        ("1 0.5 0.5 0.2", "expected class, x, y, width, height"),
        ("1 20 10 5 5", "0 to 1, and no pixels"),
        ("1 nan 0.5 0.5 0.5", "0 to 1, and no pixels"),
        ("2 0.5 0.5 0.5 0.5", "class 2; expected 0 to 1"),
        ("0.5 0.5 0.5 0.5 0.5", "class 0.5; expected 0 to 1"),
        ("cat 0.5 0.5 0.5 0.5", "is no box"),
        ("0 0.5 0.5 0.5 0.5\n" * 4, "4 boxes, and there is room for 3"),
    ],
)
def test_a_text_file_that_is_wrong_costs_its_frame_the_boxes(
    photos: Path, text: str, said: str
) -> None:
    frame = yolo(photos, text).load(0)
    assert said in frame.faults["boxes"]
    assert frame.faults["boxes"].startswith("a.txt: ")
    assert not frame.targets["boxes"].any()
    assert frame.image.shape == (20, 40, 3)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ({"bbox": [41, 2, 5, 5]}, "lies outside the image of 40x20"),
        ({"bbox": [4, 2, -5, 5]}, "has no size"),
        ({"bbox": [4, 2, float("nan"), 5]}, "no finite number"),
        ({"bbox": [4, 2, 5, 5], "category_id": 1}, "category 1, which instances.json or `classes`"),
    ],
)
def test_an_annotation_that_is_wrong_costs_its_frame_the_boxes(
    photos: Path, box: dict[str, Any], said: str
) -> None:
    frame = coco(photos, {"bbox": [1, 1, 2, 2]}, box).load(0)
    assert said in frame.faults["boxes"]
    assert not frame.targets["boxes"].any()


def test_images_that_share_a_name_do_not_get_each_other_s_boxes(photos: Path) -> None:
    box = {"bbox": [1, 1, 2, 2]}
    frame = coco(photos, box, names=("train/a.png", "val/a.png")).load(0)
    assert "several images of this name" in frame.faults["boxes"]
    assert not frame.targets["boxes"].any()
    (photos / "photos" / "more").mkdir()
    Image.new("RGB", (40, 20)).save(photos / "photos" / "more" / "a.jpg")
    with pytest.raises(ConfigError, match="a: two images in different folders have this name"):
        coco(photos, box)


@pytest.mark.parametrize(
    "box", [{}, {"bbox": None}, {"bbox": [1, 2, 3]}, {"bbox": [1, 2, 3, "wide"]}]
)
def test_a_file_of_malformed_annotations_is_named(photos: Path, box: dict[str, Any]) -> None:
    source = coco(photos, box)
    with pytest.raises(ConfigError, match=r"instances.json cannot be read as COCO's.* bbox of 4"):
        source.load(0)


def test_a_file_that_is_missing_is_named_though_its_classes_are_given(photos: Path) -> None:
    config = BoxesConfig(images=photos / "photos", boxes=photos / "gone.json", classes=("a",))
    with pytest.raises(ConfigError, match=r"gone.json cannot be read as COCO's"):
        open_boxes(config)


def test_a_file_that_is_none_and_an_image_of_another_size_are_named(photos: Path) -> None:
    Image.new("RGB", (20, 40)).save(photos / "photos" / "a.png")
    assert "has it as 20x40, and it is 40x20" in coco(photos).load(0).faults["boxes"]
    (photos / "instances.json").write_text("[]")
    settings = {"images": photos / "photos", "boxes": photos / "instances.json"}
    with pytest.raises(ConfigError, match="cannot be read as COCO's instances"):
        open_boxes(BoxesConfig.model_validate(settings))
    with pytest.raises(ValidationError, match="give `classes`"):
        BoxesConfig.model_validate({**settings, "boxes": photos / "texts"})
    (photos / "texts").mkdir()
    (photos / "texts" / "z.txt").write_text("")
    config = BoxesConfig(images=photos / "photos", boxes=photos / "texts", classes=("a",))
    with pytest.raises(ConfigError, match="has a text file of boxes"):
        open_boxes(config)


def test_boxes_follow_their_image_to_a_canvas() -> None:
    boxes = np.array([[10, 4, 30, 16, 2], NONE], np.float32)
    frame = Frame("a", np.zeros((20, 40, 3), np.uint8), targets={"boxes": boxes})
    made = to_canvas(frame, (30, 20)).targets["boxes"]  # 40x20 to 20x10, the rest is padding
    assert made.tolist() == [[5, 2, 15, 8, 2], NONE]


def test_the_demo_s_boxes_stand_around_what_its_labels_show() -> None:
    settings: dict[str, Any] = {"clips": 3, "frames_per_clip": 2, "label_every": 2}
    source = DemoSource(DemoConfig(targets=("boxes", "depth"), **settings))
    for index in range(1, 6, 2):
        frame = source.load(index)
        boxes, label = frame.targets["boxes"], frame.label
        assert label is not None
        there = boxes[boxes[:, 2] > boxes[:, 0]]
        assert (boxes[len(there) :] == NONE).all()
        inside = np.zeros_like(label, bool)
        for x0, y0, x1, y1, thing in there.astype(int).tolist():
            part = label[y0:y1, x0:x1] == THINGS[thing]
            edges = part[0], part[-1], part[:, 0], part[:, -1]
            assert all(edge.any() for edge in edges), "no smaller box would do"
            inside[y0:y1, x0:x1] |= part
        things = np.isin(label, THINGS)
        assert (things & ~inside).sum() < 0.1 * things.sum(), "what is left shows too little"
        assert not source.load(index - 1).targets["boxes"].any()
    assert "boxes" not in DemoSource(DemoConfig(**settings)).load(1).targets


def test_as_many_boxes_as_there_is_room_for_fill_it(photos: Path) -> None:
    boxes = yolo(photos, "1 0.5 0.5 0.25 0.5\n" * 3).load(0).targets["boxes"]
    assert boxes.tolist() == [[15, 5, 25, 15, 1]] * 3
