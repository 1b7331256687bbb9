from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from stillroom.stages.sources.image_mask import ImageMaskConfig
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.errors import ConfigError


def put(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, ids in (("s/1", [0, 1, 2, 255]), ("s/2", [2, 2, 0, 0])):
        put(tmp_path / "images" / f"{name}.jpg", np.full((3, 4, 3), 80, np.uint8))
        put(tmp_path / "masks" / f"{name}.png", np.tile(np.array(ids, np.uint8), (3, 1)))
    return tmp_path


def config(folder: Path, **changes: Any) -> ImageMaskConfig:
    return ImageMaskConfig(**{"root": folder, "classes": ("a", "b", "c"), **changes})


def first_row(settings: ImageMaskConfig, index: int = 0) -> list[int]:
    label = open_source(settings).load(index).label
    assert label is not None
    assert label.dtype == np.uint8
    row: list[int] = label[0].tolist()
    return row


def fault_of(settings: ImageMaskConfig) -> str:
    """Return the fault of the first label, which is then left out; the image is there."""
    frame = open_source(settings).load(0)
    assert (frame.image.shape, frame.label.shape) == ((3, 4, 3), (3, 4))
    assert (frame.label == 255).all()
    return frame.label_fault


def test_masks_pair_with_images_by_their_path(root: Path) -> None:
    source = open_source(config(root))
    assert list(source.frame_ids) == ["s/1", "s/2"]
    assert source.classes == ("a", "b", "c")
    assert first_row(config(root), 1) == [2, 2, 0, 0]


def test_without_a_mapping_masks_hold_class_indices_and_255_is_ignored(root: Path) -> None:
    assert first_row(config(root)) == [0, 1, 2, 255]


def test_a_mapping_turns_raw_ids_into_indices(root: Path) -> None:
    settings = config(root, classes=("x", "y"), mapping={0: 1, 2: 0}, ignore=(1, 255))
    assert first_row(settings) == [1, 255, 0, 255]


def test_an_ignored_id_wins_over_the_index_of_the_same_value(root: Path) -> None:
    assert first_row(config(root, ignore=(0, 255))) == [255, 1, 2, 255]


def test_ids_outside_the_classes_are_named(root: Path) -> None:
    fault = fault_of(config(root, classes=("a",)))
    assert fault == (
        "1.png: label values 1, 2 are outside the class list (1 classes; ids known here: 0, 255)"
    )


def test_unlisted_ids_may_be_ignored_on_request(root: Path) -> None:
    assert first_row(config(root, classes=("a",), unlisted="ignore")) == [0, 255, 255, 255]


def test_ids_are_as_far_apart_as_the_nearest_two_that_mean_different_things(root: Path) -> None:
    def apart(**changes: Any) -> int:
        return config(root, **changes).label_ids().apart()

    assert apart() == 1
    assert apart(classes=("a", "b"), mapping={0: 0, 255: 1}, ignore=()) == 255
    assert apart(mapping={0: 0, 1: 0, 90: 1, 130: 2}) == 40
    assert apart(classes=("a",), ignore=()) == 256


def test_sixteen_bit_ids_map_too(root: Path) -> None:
    put(root / "masks" / "s" / "1.png", np.tile(np.array([7, 300, 40000, 7], np.uint16), (3, 1)))
    settings = config(root, mapping={7: 0, 300: 1, 40000: 2})
    assert first_row(settings) == [0, 1, 2, 0]


def test_classes_may_be_a_number_and_ids_may_start_at_1(root: Path) -> None:
    put(root / "masks" / "s" / "1.png", np.tile(np.array([0, 1, 3, 255], np.uint8), (3, 1)))
    settings = config(root, classes=3, ids_from=1)
    assert first_row(settings) == [255, 0, 2, 255]
    assert settings.classes == ("0", "1", "2")
    assert config(root, classes="camvid").classes[0] == "sky"
    assert "label values 3 are outside" in fault_of(config(root, classes=2, ids_from=1))
    plain = config(root, classes=("a", "b", "c"))
    assert settings.stated()["ids"] != plain.stated()["ids"]
    assert "ids_from" not in plain.stated()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ids_from": 1, "mapping": {1: 0}}, "leave `ids_from` out"),
        ({"classes": 255, "ids_from": 1}, "has the id 255, which is ignored"),
        ({"classes": "vok"}, "no class list 'vok'; known: camvid, coco, ade20k, cityscapes"),
        ({"classes": 0}, "at least 1"),
    ],
)
def test_classes_and_ids_that_cannot_be_are_refused(
    root: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        config(root, **changes)


def test_a_missing_mask_is_a_bad_label_or_its_frame_left_out(root: Path) -> None:
    (root / "masks" / "s" / "1.png").unlink()
    source = open_source(config(root))
    assert (len(source), source.label_count()) == (2, 2)
    assert fault_of(config(root)) == "1.jpg: it has no label file"
    assert list(open_source(config(root, without_mask="skip")).frame_ids) == ["s/2"]


def test_name_endings_are_dropped_before_pairing(tmp_path: Path) -> None:
    put(tmp_path / "i" / "z_leftImg8bit.png", np.zeros((2, 2, 3), np.uint8))
    put(tmp_path / "m" / "z_gtFine_labelIds.png", np.zeros((2, 2), np.uint8))
    put(tmp_path / "m" / "z_gtFine_color.png", np.zeros((2, 2, 3), np.uint8))
    settings = ImageMaskConfig(
        images=tmp_path / "i",
        masks=tmp_path / "m",
        image_ending="_leftImg8bit",
        mask_ending="_gtFine_labelIds",
        classes=("a",),
    )
    source = open_source(settings)
    assert list(source.frame_ids) == ["z"]
    assert source.load(0).label is not None


def test_folders_that_share_no_name_are_a_config_error(root: Path) -> None:
    (root / "masks" / "s").rename(root / "masks" / "t")
    with pytest.raises(ConfigError, match=r"no image .* has a mask .*'s/1' against 't/1'"):
        open_source(config(root))


def test_two_masks_for_one_image_are_a_config_error(root: Path) -> None:
    put(root / "masks" / "s" / "1.bmp", np.zeros((3, 4), np.uint8))
    with pytest.raises(ConfigError, match="both would be frame 's/1'"):
        open_source(config(root))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": None}, "either `root`, or both"),
        ({"images": Path("i"), "masks": Path("m")}, "either `root`, or both"),
        ({"root": None, "images": Path("i")}, "go together"),
        ({"classes": ()}, "classes"),
        ({"classes": ("a", "a")}, "same name"),
        ({"mapping": {0: 3}}, "outside the 3 classes"),
        ({"mapping": {0: 1}, "ignore": (0,)}, "both mapped and ignored"),
        ({"maping": {0: 1}}, "maping"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        config(tmp_path, **changes)


def test_the_identity_tells_mappings_apart_and_survives_json(root: Path) -> None:
    plain = open_source(config(root)).identity()
    assert json.loads(json.dumps(plain)) == plain
    assert str(root) not in json.dumps(plain)
    assert open_source(config(root, mapping={0: 0, 1: 1, 2: 1})).identity() != plain
    assert open_source(config(root, mapping={0: 0, 1: 1, 2: 2})).identity() == plain


def test_real_coco_maps_load_with_their_panoptic_ids(shared_data: Path) -> None:
    settings = ImageMaskConfig(
        images=shared_data / "coco" / "train2017",
        masks=shared_data / "coco" / "semantic_train2017",
        classes=("person", "other"),
        mapping={1: 0} | dict.fromkeys(range(2, 201), 1),
        ignore=(0, 255),
        without_mask="skip",
    )
    source = open_source(settings)
    assert len(source) == 100
    seen: set[int] = set()
    for index in range(0, 100, 20):
        frame = source.load(index)
        assert frame.label is not None
        assert frame.label.shape == frame.image.shape[:2]
        seen |= set(np.unique(frame.label).tolist())
    assert 1 in seen
    assert seen <= {0, 1, 255}
