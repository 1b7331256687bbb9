"""Public data sets by name: their layouts, splits, ids and classes."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from data_set_trees import FRAMES, TREES, expected, plant
from PIL import Image
from pydantic import ValidationError

from stillroom.stages.class_lists import CLASS_LISTS, CLASS_TABLES
from stillroom.stages.pictures.palette import palette
from stillroom.stages.sources.camvid import CamVidConfig
from stillroom.stages.sources.data_set_table import DATA_SETS
from stillroom.stages.sources.data_sets import SETTINGS
from stillroom.stages.sources.image_mask import ImageMaskConfig
from stillroom.stages.sources.images import ImagesConfig
from stillroom.stages.sources.open import open_source
from stillroom.stages.sources.recognise import recognise
from stillroom.storage_specs.errors import ConfigError, SourceUnavailable

if TYPE_CHECKING:
    from stillroom.stages.sources.source import Source

every_data_set = pytest.mark.parametrize("kind", TREES)


def opened(kind: str, root: Path, **settings: Any) -> Source:
    return open_source(SETTINGS[kind](kind=kind, root=root, **settings))


def test_every_data_set_has_a_tree_here() -> None:
    assert set(TREES) == set(DATA_SETS)


@every_data_set
def test_a_split_has_its_frames_and_its_ids_are_their_classes(kind: str, tmp_path: Path) -> None:
    tree = plant(kind, tmp_path)
    for split, names in FRAMES.items():
        source = opened(kind, tmp_path, split=split)
        lasts = [name.rpartition("/")[2].removeprefix("ulm_") for name in source.frame_ids]
        assert sorted(lasts) == sorted(names)
        assert source.classes is not None
        assert len(source.classes) == tree.classes
        for index in range(len(source)):
            frame = source.load(index)
            assert frame.label_fault == ""
            np.testing.assert_array_equal(frame.label, expected(tree))


@every_data_set
def test_a_data_set_is_known_by_its_layout_also_from_above(kind: str, tmp_path: Path) -> None:
    plant(kind, tmp_path / "deep")
    # both are one tree: what its ids mean is the choice of who reads them
    same = kind.removesuffix("_60")
    assert recognise(tmp_path / "deep") == same
    for inside in DATA_SETS[kind].inside:
        plant(kind, tmp_path / inside.replace("/", "_") / inside)
        assert recognise(tmp_path / inside.replace("/", "_")) == same


def test_what_is_no_data_set_is_not_recognised(tmp_path: Path) -> None:
    assert recognise(tmp_path / "nowhere") is None
    for folder in ("images/train", "labels/train", "train/images", "train/masks"):
        (tmp_path / folder).mkdir(parents=True)
    assert recognise(tmp_path) is None
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "SegmentationClass").mkdir()
    assert recognise(tmp_path) is None  # without the lists of its splits


def test_camvid_and_snippets_are_recognised_too(tmp_path: Path) -> None:
    for folder in ("camvid/val", "camvid/valannot", "city/leftImg8bit_sequence/val",
                   "city/gtFine/val"):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
    assert recognise(tmp_path / "camvid") == "camvid"
    assert recognise(tmp_path / "city") == "cityscapes_sequence"


def test_real_data_are_recognised(shared_data: Path) -> None:
    assert recognise(shared_data / "camvid") == "camvid"
    assert recognise(shared_data / "coco") == "coco_panoptic"
    assert recognise(shared_data / "seven_scenes") is None


@pytest.mark.parametrize(
    ("kind", "index", "name"),
    [
        ("cityscapes", 13, "car"),
        ("voc", 0, "background"),
        ("voc", 15, "person"),
        ("pascal_context", 0, "aeroplane"),
        ("pascal_context_60", 59, "wood"),
        ("ade20k", 12, "person"),
        ("ade20k", 149, "flag"),
        ("coco_stuff", 79, "toothbrush"),
        ("coco_stuff", 80, "banner"),
        ("coco_stuff", 170, "wood"),
        ("coco_panoptic", 80, "banner"),
        ("coco_panoptic", 116, "tree-merged"),
        ("coco_panoptic", 132, "rug-merged"),
        ("nyu", 37, "otherstructure"),
        ("mapillary", 13, "Road"),
        ("mapillary", 64, "Ego Vehicle"),
        ("bdd100k", 18, "bicycle"),
    ],
)
def test_classes_stand_at_their_published_places(kind: str, index: int, name: str) -> None:
    assert CLASS_LISTS[DATA_SETS[kind].classes][index] == name


@pytest.mark.parametrize("name", CLASS_TABLES)
def test_a_table_of_classes_names_each_once_by_ascending_ids(name: str) -> None:
    table = CLASS_TABLES[name]
    assert len(set(table.names)) == len(table.names) == len(table.ids) == len(table.colours)
    assert list(table.ids) == sorted(set(table.ids))
    assert all(each == each.strip() != "" for each in table.names)


def test_the_gaps_of_coco_s_ids_are_where_its_annotators_left_them() -> None:
    # of 182 labels of COCO-Stuff eleven were never used, and its label maps hold label - 1
    unused = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
    assert set(CLASS_TABLES["coco_stuff"].ids) == set(range(182)) - {each - 1 for each in unused}
    things = set(CLASS_TABLES["coco_panoptic"].ids[:80])
    assert things == set(range(1, 91)) - (unused - {91})


def test_pictures_show_a_data_set_in_its_own_colours() -> None:
    cityscapes = palette(CLASS_LISTS["cityscapes"])
    assert cityscapes[[0, 10, 18]].tolist() == [[128, 64, 128], [70, 130, 180], [119, 11, 32]]
    voc = palette(CLASS_LISTS["voc"])
    assert voc[15].tolist() == [192, 128, 128]  # person
    assert voc[0].tolist() != [0, 0, 0]  # which is for pixels that are ignored
    for name, classes in CLASS_LISTS.items():
        assert len(np.unique(palette(classes), axis=0)) == len(classes), name


def test_an_unknown_split_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="no split 'test'; known: train, val, trainval"):
        opened("voc", tmp_path, split="test")


def test_augmented_voc_says_where_its_labels_come_from_and_reads_them(tmp_path: Path) -> None:
    plant("voc", tmp_path)
    with pytest.raises(ConfigError, match=r"SegmentationClassAug does not exist.*Boundaries"):
        opened("voc", tmp_path, split="trainaug")
    (tmp_path / "SegmentationClassAug").mkdir()
    for name in (*FRAMES["train"], *FRAMES["val"]):
        Image.fromarray(np.full((64, 96), 20, np.uint8)).save(
            tmp_path / "SegmentationClassAug" / f"{name}.png"
        )
    with pytest.raises(ConfigError, match=r"trainaug.txt does not exist.*10582"):
        opened("voc", tmp_path, split="trainaug")
    names = "".join(f"{name}\n" for name in FRAMES["train"][:2])
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").write_text(names)
    source = opened("voc", tmp_path, split="trainaug")
    assert len(source) == 2
    assert (source.load(0).label == 20).all()


def test_a_list_stands_in_for_a_split_that_is_one(tmp_path: Path) -> None:
    plant("voc", tmp_path)
    (tmp_path / "ImageSets/Segmentation/train.txt").unlink()
    listed = tmp_path / "eighth.txt"
    name = FRAMES["train"][1]
    listed.write_text(f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png\n")
    assert list(opened("voc", tmp_path, list=listed).frame_ids) == [name]
    with pytest.raises(ConfigError, match=r"train.txt does not exist"):
        opened("voc", tmp_path)


def test_coarse_cityscapes_has_a_split_of_its_own(tmp_path: Path) -> None:
    for path, value in (
        ("leftImg8bit/train_extra/jena/jena_1_2_leftImg8bit.png", (9, 9, 9)),
        ("gtCoarse/train_extra/jena/jena_1_2_gtCoarse_labelIds.png", 26),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        Image.new("L" if isinstance(value, int) else "RGB", (4, 2), value).save(tmp_path / path)
    source = opened("cityscapes", tmp_path, split="train_extra")
    assert list(source.frame_ids) == ["jena/jena_1_2"]
    assert (source.load(0).label == 13).all()


def test_an_id_that_a_data_set_does_not_have_is_a_fault_of_the_label(tmp_path: Path) -> None:
    plant("ade20k", tmp_path)
    for label in (tmp_path / "annotations/training").iterdir():
        Image.fromarray(np.full((64, 96), 151, np.uint8)).save(label)
    assert "151 are outside the class list" in opened("ade20k", tmp_path).load(0).label_fault


def test_panoptic_files_that_do_not_go_together_are_faults(tmp_path: Path) -> None:
    plant("coco_panoptic", tmp_path)
    segments = tmp_path / "annotations/panoptic_train2017.json"
    document = json.loads(segments.read_text())
    cut = document["annotations"][1]
    document["annotations"] = document["annotations"][1:]
    cut["segments_info"].pop()
    segments.write_text(json.dumps(document, indent=1))
    faults = Counter(
        fault.partition(" ")[2]
        for index in range(3)
        if (fault := opened("coco_panoptic", tmp_path).load(index).label_fault)
    )
    assert faults == {
        "panoptic_train2017.json has no annotation of it": 1,
        "segments [350300] are not in panoptic_train2017.json; take both from one archive": 1,
    }
    for text in ("", '{"annotations": [{"file_name"', '{"annotations": [{}]}'):
        segments.write_text(text)
        with pytest.raises(SourceUnavailable, match=r"panoptic_train2017.json cannot be read"):
            opened("coco_panoptic", tmp_path).load(0)
    segments.unlink()
    with pytest.raises(ConfigError, match=r"panoptic_train2017.json does not exist"):
        opened("coco_panoptic", tmp_path)


def test_real_dense_labels_of_coco_are_its_133_classes(shared_data: Path, tmp_path: Path) -> None:
    labels = sorted((shared_data / "coco" / "semantic_val2017").glob("*.png"))
    listed = tmp_path / "labelled.txt"
    listed.write_text("".join(f"{path.stem}\n" for path in labels))
    source = opened("coco_panoptic", shared_data / "coco", split="val", list=listed)
    assert len(source) == len(labels) == 100
    assert source.classes is not None
    pixels = np.zeros(256, np.int64)
    for index in range(0, 100, 5):
        frame = source.load(index)
        assert frame.label_fault == ""
        raw = np.asarray(Image.open(labels[index]))
        assert ((frame.label == 255) == (raw == 0)).all()
        assert ((frame.label == 116) == (raw == 184)).all()  # tree-merged
        pixels += np.bincount(frame.label.reshape(-1), minlength=256)
    assert pixels[133:255].sum() == 0
    assert pixels[source.classes.index("person")] > 0


def test_the_obvious_way_into_voc_says_that_it_holds_the_validation_frames(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plant("voc", tmp_path)
    obvious = ImageMaskConfig(
        images=tmp_path / "JPEGImages", masks=tmp_path / "SegmentationClass", classes="voc"
    )
    with caplog.at_level(logging.WARNING):
        assert len(open_source(obvious)) == 4
        assert "its splits train, val, so that those to validate on" in caplog.text
        assert 'take kind = "voc" with a `split`' in caplog.text
        caplog.clear()
        listed = tmp_path / "ImageSets/Segmentation/train.txt"
        assert len(open_source(obvious.model_copy(update={"list": listed}))) == 3
        assert len(opened("voc", tmp_path)) == 3
        assert caplog.text == ""


def test_folders_of_one_split_are_not_warned_of_and_those_above_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plant("cityscapes", tmp_path / "city")
    with caplog.at_level(logging.WARNING):
        open_source(ImagesConfig(root=tmp_path / "city/leftImg8bit/train"))
        shutil.copytree(tmp_path / "city/leftImg8bit/train", tmp_path / "elsewhere")
        open_source(ImagesConfig(root=tmp_path / "elsewhere"))
        assert caplog.text == ""
        assert len(open_source(ImagesConfig(root=tmp_path / "city/leftImg8bit"))) == 4
        assert "train, val" in caplog.text


def test_the_page_on_data_sets_has_the_splits_and_the_number_of_classes_of_each() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "datasets.md").read_text()
    rows = {
        kind.strip(" `"): (splits, classes)
        for _, kind, _, splits, classes, *_ in (
            line.split("|") for line in page.splitlines() if line.count("|") == 6
        )
    }
    assert rows.keys() - {"kind", "---"} == DATA_SETS.keys()
    for kind, data_set in DATA_SETS.items():
        assert rows[kind][0].strip() == ", ".join(data_set.splits)
        assert str(TREES[kind].classes) in rows[kind][1]


def test_what_a_data_set_states_is_what_decides_its_labels(tmp_path: Path) -> None:
    settings = SETTINGS["nyu"](kind="nyu", root=tmp_path)
    stated = settings.stated()
    assert (stated["kind"], stated["split"], len(stated["classes"])) == ("nyu", "train", 40)
    assert (stated["ids"]["0"], stated["ids"]["1"], stated["ids"]["40"]) == (255, 0, 39)
    assert "drawn" not in stated
    assert CamVidConfig(root=tmp_path).stated().keys() == {"kind", "split", "classes"}


def test_nyu_has_depth_where_that_is_asked_for_and_its_identity_is_what_it_was(
    tmp_path: Path,
) -> None:
    plant("nyu", tmp_path)
    plain = opened("nyu", tmp_path)
    size = plain.load(0).image.shape[:2]
    with pytest.raises(ConfigError, match=r"depth does not exist"):
        opened("nyu", tmp_path, depth=True)
    (tmp_path / "depth").mkdir()
    first, second = plain.frame_ids[:2]
    np.save(tmp_path / "depth" / f"{first}.npy", np.full(size, 2.5, np.float32))
    source = opened("nyu", tmp_path, depth=True)
    frames = [source.load(index) for index in range(2)]
    assert (frames[0].targets["depth"] == 2.5).all()
    assert frames[0].label is not None
    assert not frames[1].targets["depth"].any()
    assert frames[1].faults["depth"] == f"{second}.jpg: it has no depth file"
    assert plain.load(0).targets == {}
    assert "targets" not in plain.identity()
    assert plain.identity() != source.identity()
    with pytest.raises(ValidationError, match="voc has no depth maps"):
        SETTINGS["voc"](kind="voc", root=tmp_path, depth=True)
