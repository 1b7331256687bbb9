from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from stillroom.stages.sources.camvid import CLASSES, CamVidConfig
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.sources.source import Source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three frames of two drives, each label naming every class and void."""
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    ids = np.tile(np.arange(12, dtype=np.uint8), (6, 1))
    for name in ("0006R0_f00930", "0006R0_f00990", "0016E5_07959"):
        image = np.full((6, 12, 3), 90, np.uint8)
        Image.fromarray(image).save(tmp_path / "train" / f"{name}.png")
        Image.fromarray(ids).save(tmp_path / "trainannot" / f"{name}.png")
    return tmp_path


def opened(root: Path) -> Source:
    return open_source(CamVidConfig(root=root, split="train"))


def label_fault(source: Source, index: int) -> str:
    """Return the fault of a label, which is left out, while its image is there."""
    frame = source.load(index)
    assert (frame.image == 90).all()
    assert (frame.label == 255).all()
    assert frame.label.shape == frame.image.shape[:2]
    return frame.label_fault


def test_void_becomes_ignore_and_classes_keep_their_numbers(root: Path) -> None:
    label = opened(root).load(0).label
    assert label is not None
    assert label.dtype == np.uint8
    assert label[0].tolist() == [*range(11), 255]
    assert len(CLASSES) == 11


def test_clip_and_time_come_from_the_name(root: Path) -> None:
    source = opened(root)
    assert [source.position(index) for index in range(3)] == [
        ("0006R0", 930),
        ("0006R0", 990),
        ("0016E5", 7959),
    ]


def test_a_name_without_a_number_belongs_to_no_clip(root: Path) -> None:
    (root / "train" / "0016E5_07959.png").rename(root / "train" / "odd.png")
    assert opened(root).position(2) == (None, None)


def test_a_missing_label_file_is_a_fault_of_the_label_and_changes_the_identity(root: Path) -> None:
    before = opened(root).identity()
    (root / "trainannot" / "0006R0_f00990.png").unlink()
    source = opened(root)
    assert len(source) == 3
    assert label_fault(source, 1) == "0006R0_f00990.png: it has no label file"
    assert source.identity()["listing_sha256"] != before["listing_sha256"]


def test_a_label_deleted_after_the_listing_is_a_fault_of_the_label(root: Path) -> None:
    source = opened(root)
    (root / "trainannot" / "0006R0_f00930.png").unlink()
    assert label_fault(source, 0) == "0006R0_f00930.png: the file is missing"


def test_a_label_of_another_size_is_left_out(root: Path) -> None:
    small = np.zeros((3, 12), np.uint8)
    Image.fromarray(small).save(root / "trainannot" / "0006R0_f00930.png")
    assert "the label is 3x12, its image 6x12" in label_fault(opened(root), 0)


def test_label_values_outside_the_classes_are_named(root: Path) -> None:
    ids = np.tile(np.array([0, 12, 200, 11], np.uint8), (6, 3))
    Image.fromarray(ids).save(root / "trainannot" / "0006R0_f00930.png")
    fault = label_fault(opened(root), 0)
    assert re.search(r"label values 12, 200 are outside .*0-11", fault)


def test_the_identity_is_json_without_paths_and_moves_with_the_folder(
    root: Path, tmp_path: Path
) -> None:
    here = opened(root).identity()
    text = json.dumps(here)
    assert json.loads(text) == here
    assert str(tmp_path) not in text
    moved = tmp_path / "moved"
    moved.mkdir()
    for folder in ("train", "trainannot"):
        (root / folder).rename(moved / folder)
    assert opened(moved).identity() == here


def test_two_images_of_one_name_are_a_config_error(root: Path) -> None:
    image = np.zeros((6, 12, 3), np.uint8)
    Image.fromarray(image).save(root / "train" / "0016E5_07959.jpg")
    with pytest.raises(ConfigError, match=r"0016E5_07959\.jpg and 0016E5_07959\.png"):
        opened(root)


@pytest.mark.parametrize("folder", ["train", "trainannot"])
def test_a_missing_folder_is_named(root: Path, folder: str) -> None:
    for file in (root / folder).iterdir():
        file.unlink()
    (root / folder).rmdir()
    with pytest.raises(ConfigError, match=f"{folder} does not exist"):
        opened(root)


def test_the_real_val_split_is_one_clip_with_labels_in_range(shared_data: Path) -> None:
    source = open_source(CamVidConfig(root=shared_data / "camvid", split="val"))
    assert len(source) == 101
    assert {source.position(index)[0] for index in range(101)} == {"0016E5"}
    assert [source.position(index)[1] for index in range(3)] == [7959, 7961, 7963]
    for index in (0, 50, 100):
        frame = source.load(index)
        assert frame.image.shape == (360, 480, 3)
        assert frame.label is not None
        assert set(np.unique(frame.label)) <= {*range(11), 255}
        assert (frame.label == CLASSES.index("road")).mean() > 0.1


def test_the_real_splits_have_their_published_sizes(shared_data: Path) -> None:
    sizes = {
        split: len(open_source(CamVidConfig(root=shared_data / "camvid", split=split)))
        for split in ("train", "val", "test")
    }
    assert sizes == {"train": 367, "val": 101, "test": 233}
