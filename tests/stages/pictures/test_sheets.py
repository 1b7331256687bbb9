"""Sheets: what they show, where, and that they stay readable in odd cases."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from stillroom.stages.evaluate.confusion import ConfusionMatrix, Scores
from stillroom.stages.pictures.contact_sheet import CacheRow, contact_sheet
from stillroom.stages.pictures.palette import palette
from stillroom.stages.pictures.prediction_sheet import (
    WRONG,
    PredictionRow,
    error_map,
    prediction_sheet,
)
from stillroom.stages.pictures.tiles import PADDING
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("sky", "road", "car")
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (12, 16, 3)).astype(np.uint8)
LABEL = np.repeat(np.array([0, 1, 255], np.uint8), 4)[:, None].repeat(16, axis=1)
PREDICTION = np.full((12, 16), 1, np.uint8)


def prediction_row(**changes: object) -> PredictionRow:
    row = PredictionRow("seq/frame_01", IMAGE, {"student": PREDICTION}, LABEL)
    return replace(row, **changes)  # type: ignore[arg-type]


def cache_row(**changes: object) -> CacheRow:
    logits = np.zeros((3, 3, 4), np.float32)
    logits[2] = 5
    row = CacheRow(
        frame_id="seq/frame_01",
        image=IMAGE,
        label=LABEL,
        logits=logits,
        confidence=np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4),
        pseudo_label=np.where(LABEL == 0, 255, 1).astype(np.uint8),
        stride=4,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def scores(value: float, classes: tuple[str, ...] = CLASSES) -> Scores:
    size = len(classes)
    return Scores(classes, value, value, value, (value,) * size, (value,) * size, (1,) * size)


def pixels_of(path: Path, *colours: tuple[int, ...]) -> list[float]:
    """How many pixels of a picture have exactly these colours."""
    pixels = np.asarray(Image.open(path))
    return [float((pixels == colour).all(2).sum()) for colour in colours]


def test_errors_are_red_ignored_pixels_black_and_right_ones_grey() -> None:
    painted = error_map(IMAGE, LABEL, PREDICTION)
    assert (painted[8:] == 0).all()
    assert (painted[4:8] == painted[4:8, :, :1]).all()
    assert (painted[4:8] >= 120).all()
    assert (np.abs(painted[:4].astype(int) - WRONG) < 40).all()


def test_a_prediction_sheet_has_a_column_for_everything(tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "new" / "sheet.png"
    row = prediction_row(predictions={"fpn": LABEL.clip(0, 1), "student": PREDICTION})
    found = {"fpn": scores(0.75), "student": scores(0.5)}
    assert prediction_sheet(path, [row, row], CLASSES, scores=found, title="test") == path
    assert words[:2] == ["test", "2 frames, 12x16 pixels"]
    assert words[2:7] == [
        "frame",
        "label",
        "fpn · mIoU 0.750",
        "student · mIoU 0.500",
        "errors of student only, in red",
    ]
    assert words.count("seq/frame_01") == 2
    assert words.count("pixel accuracy 1.000") == 2
    assert words.count("pixel accuracy 0.500") == 2
    assert "Classes with the IoU of fpn / student" in words
    assert words.count("0.750 / 0.500") == 3


def test_pictures_show_each_class_in_its_colour_over_its_share(tmp_path: Path) -> None:
    path = prediction_sheet(tmp_path / "sheet.png", [prediction_row()], CLASSES)
    width = (1880 - 2 * 28 - 3 * 12) // 4
    tile = width * round(width * 12 / 16)
    sky, road, car = (tuple(colour) for colour in palette(CLASSES).tolist())
    found = np.array(pixels_of(path, sky, road, car)) / tile
    # sky: a third of the label. road: a third of it, and all of the prediction. And the legend.
    assert found == pytest.approx([1 / 3, 4 / 3, 0], abs=0.01)


def test_errors_of_another_model_can_be_asked_for(tmp_path: Path, words: list[str]) -> None:
    row = prediction_row(predictions={"fpn": PREDICTION, "student": PREDICTION})
    prediction_sheet(tmp_path / "sheet.png", [row], CLASSES, errors_of="fpn")
    assert "errors of fpn only, in red" in words
    with pytest.raises(ConfigError, match="no prediction 'other'; there are: fpn, student"):
        prediction_sheet(tmp_path / "sheet.png", [row], CLASSES, errors_of="other")


def test_without_labels_there_is_neither_label_nor_error(tmp_path: Path, words: list[str]) -> None:
    prediction_sheet(tmp_path / "sheet.png", [prediction_row(label=None)], CLASSES)
    assert words[2:4] == ["frame", "student"]
    assert not [name for name in words if "error" in name or "accuracy" in name or "ignore" in name]


def test_a_frame_without_a_label_leaves_empty_fields(tmp_path: Path, words: list[str]) -> None:
    rows = [prediction_row(), prediction_row(label=None)]
    prediction_sheet(tmp_path / "sheet.png", rows, CLASSES)
    assert words.count("no label") == 2
    assert "errors of student, in red" in words  # there is no other whose errors are not shown


def test_with_150_classes_the_legend_names_those_that_can_be_seen(
    tmp_path: Path, words: list[str]
) -> None:
    names = tuple(f"class number {index}" for index in range(150))
    label = RNG.integers(0, 150, (12, 16)).astype(np.uint8)
    few = prediction_row(label=np.full_like(label, 7), predictions={"student": PREDICTION})
    prediction_sheet(tmp_path / "few.png", [few], names, scores={"student": scores(0.5, names)})
    assert "Classes (2 of 150, those on this sheet) with the IoU of student" in words
    assert [name for name in words if name.startswith("class number")] == [
        "class number 1",
        "class number 7",
    ]
    words.clear()
    prediction_sheet(tmp_path / "many.png", [prediction_row(label=label)], names)
    assert "Classes (60 of 150, the most frequent)" in words


def test_long_names_are_shortened_and_signs_are_not_read_as_formulas(
    tmp_path: Path, words: list[str]
) -> None:
    name = "very/long/" + "folder/" * 30 + "$x_1^2$.png"
    row = prediction_row(frame_id=name, predictions={name: PREDICTION})
    classes = ("sky", "$a_b$", "c" * 300)
    prediction_sheet(tmp_path / "sheet.png", [row], classes, title=name)
    assert any("…" in word and word.endswith("$x_1^2$.png") for word in words)
    assert "$a_b$" in words


def test_padding_is_grey_in_every_column_and_counts_nowhere(
    tmp_path: Path, words: list[str]
) -> None:
    row = prediction_row(valid=(6, 16), label=np.full_like(LABEL, 0))
    path = prediction_sheet(tmp_path / "sheet.png", [row], CLASSES)
    width = (1880 - 2 * 28 - 3 * 12) // 4
    grey = pixels_of(path, PADDING)[0] / (width * round(width * 12 / 16))
    # half of four columns, less the blur where the frame, enlarged smoothly, meets its padding
    assert 1.85 < grey <= 2
    assert "pixel accuracy 0.000" in words
    assert "padding" in words


@pytest.mark.parametrize("shape", [(200, 20), (20, 200), (1, 1), (900, 1200)])
def test_frames_of_any_shape_fit(shape: tuple[int, int], tmp_path: Path, words: list[str]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    label = np.zeros(shape, np.uint8)
    rows = [prediction_row(), PredictionRow("odd", image, {"student": label}, label)]
    with Image.open(prediction_sheet(tmp_path / "sheet.png", rows, CLASSES)) as drawn:
        assert drawn.width <= 1880
    assert "odd" in words


def test_rows_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    with pytest.raises(ConfigError, match="at least one frame"):
        prediction_sheet(path, [], CLASSES)
    with pytest.raises(ConfigError, match="expected predictions by student; got other"):
        prediction_sheet(
            path, [prediction_row(), prediction_row(predictions={"other": PREDICTION})], CLASSES
        )
    with pytest.raises(ConfigError, match="expected predictions by some model; got none"):
        prediction_sheet(path, [prediction_row(predictions={})], CLASSES)
    with pytest.raises(
        ArtifactError, match=r"student \(3, 4\) does not cover the frame \(12, 16\)"
    ):
        prediction_sheet(
            path, [prediction_row(predictions={"student": PREDICTION[:3, :4]})], CLASSES
        )
    with pytest.raises(ArtifactError, match="got 3"):
        prediction_sheet(path, [prediction_row(label=np.full_like(LABEL, 3))], CLASSES)
    assert not path.exists()


def test_a_contact_sheet_shows_all_that_is_cached(tmp_path: Path, words: list[str]) -> None:
    path = contact_sheet(tmp_path / "sheet.png", [cache_row()], CLASSES, threshold=0.7)
    assert words[2:7] == ["frame", "label", "teacher", "confidence", "pseudo-label"]
    assert "mean 0.500" in words
    assert words.count("66.7% labelled") == 2
    assert {"threshold 0.70", "0", "1", "unlabelled (below 0.70)", "ignored"} <= set(words)
    width = (1880 - 2 * 28 - 4 * 12) // 5
    tile = width * round(width * 12 / 16)
    _, road, car = (tuple(colour) for colour in palette(CLASSES).tolist())
    assert np.array(pixels_of(path, road, car)) / tile == pytest.approx(
        [1 / 3 + 2 / 3, 1], abs=0.01
    )


def test_what_is_cached_nowhere_has_no_column(tmp_path: Path, words: list[str]) -> None:
    row = cache_row(label=None, logits=None, pseudo_label=None)
    contact_sheet(tmp_path / "sheet.png", [row], CLASSES)
    assert words[2:4] == ["frame", "confidence"]
    assert "Classes" not in words  # no colour of a class can be seen
    words.clear()
    contact_sheet(tmp_path / "sheet.png", [row, cache_row(confidence=None)], CLASSES)
    assert {"no label", "no logits", "no confidence", "no pseudo-label"} <= set(words)


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_the_mark_of_the_threshold_never_runs_into_a_tick(
    threshold: float, tmp_path: Path, words: list[str]
) -> None:
    contact_sheet(tmp_path / "sheet.png", [cache_row()], CLASSES, threshold=threshold)
    assert f"threshold {threshold:.2f}" in words


def test_an_artifact_of_another_grid_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"seq/frame_01: confidence: .* stride 8"):
        contact_sheet(tmp_path / "s.png", [cache_row(stride=8, logits=None)], CLASSES)
    with pytest.raises(ArtifactError, match="seq/frame_01: pseudo-label"):
        contact_sheet(tmp_path / "s.png", [cache_row(pseudo_label=LABEL[:4])], CLASSES)
    with pytest.raises(ConfigError, match="at least one frame"):
        contact_sheet(tmp_path / "s.png", [], CLASSES)


def test_more_frames_than_a_picture_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"too large to draw .* fewer frames"):
        contact_sheet(tmp_path / "s.png", [cache_row()] * 200, CLASSES)


def test_drawing_leaves_matplotlib_as_it_was_and_is_the_same_every_time(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    matrix = ConfusionMatrix(3)
    matrix.update(PREDICTION, LABEL)
    found = {"student": matrix.scores(CLASSES)}
    for name in ("a.png", "b.png"):
        prediction_sheet(tmp_path / name, [prediction_row()], CLASSES, scores=found)
    assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
