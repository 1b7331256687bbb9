"""Colours that can be told apart, and label maps painted with them."""

from __future__ import annotations

import numpy as np
import pytest

from stillroom.stages.pictures.palette import _lab, colourise, palette
from stillroom.storage_specs.errors import ArtifactError, ConfigError

CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip


def nearest_distance(colours: np.ndarray) -> float:
    places = _lab(colours)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    return float(apart[~np.eye(len(places), dtype=bool)].min())


def test_lab_agrees_with_known_colours() -> None:
    known = {(255, 255, 255): (100, 0, 0), (0, 0, 0): (0, 0, 0), (255, 0, 0): (53.2, 80.1, 67.2),
             (0, 0, 255): (32.3, 79.2, -107.9)}  # fmt: skip
    found = _lab(np.array(list(known), np.uint8))
    assert np.abs(found - np.array(list(known.values()))).max() < 0.2


# A difference of 2.3 is just noticeable side by side; across a picture it takes several times that.
@pytest.mark.parametrize(
    ("classes", "apart"),
    [
        (CAMVID, 20),
        (tuple(f"class {index}" for index in range(21)), 30),
        ((*CAMVID, *(f"class {index}" for index in range(139))), 9),
        (tuple(f"class {index}" for index in range(255)), 7),
    ],
    ids=["camvid", "21", "150", "255"],
)
def test_colours_can_be_told_apart_from_each_other_and_from_black_and_white(
    classes: tuple[str, ...], apart: float
) -> None:
    colours = palette(classes)
    assert (colours.shape, colours.dtype) == ((len(classes), 3), np.uint8)
    with_ends = np.concatenate([colours, np.array([[0, 0, 0], [255, 255, 255]], np.uint8)])
    assert nearest_distance(with_ends) >= apart


def test_a_street_class_has_its_colour_wherever_it_stands_and_whatever_it_is_called() -> None:
    road = palette(["road"])[0].tolist()
    assert palette(["x", "y", "Road"])[2].tolist() == road
    assert palette(["sidewalk"]).tolist() == palette(["pavement"]).tolist()
    assert palette(["traffic_sign"]).tolist() == palette(["sign"]).tolist()


def test_two_classes_of_one_colour_do_not_share_it() -> None:
    colours = palette(["person", "rider", "pedestrian", "bicyclist", "car", "car"])
    assert len(np.unique(colours, axis=0)) == 6


def test_colours_are_the_same_every_time() -> None:
    assert palette(["x", "y"]).tolist() == palette(["x", "y"]).tolist()
    assert palette([]).shape == (0, 3)


def test_255_is_black_or_what_is_asked_for() -> None:
    colours = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    label = np.array([[0, 1], [255, 1]], np.uint8)
    assert colourise(label, colours).tolist() == [[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [4, 5, 6]]]
    assert colourise(label, colours, (9, 9, 9))[1, 0].tolist() == [9, 9, 9]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.array([[2]], np.uint8), r"expected 0\.\.1 or 255 \(ignore\), got 2"),
        (np.array([[0]]), "int64"),
        (np.zeros((1, 2, 3), np.uint8), r"\(1, 2, 3\)"),
    ],
)
def test_a_map_that_has_no_colours_is_refused(label: np.ndarray, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        colourise(label, np.zeros((2, 3), np.uint8))


def test_more_classes_than_a_label_map_holds_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 255"):
        palette([str(index) for index in range(256)])
