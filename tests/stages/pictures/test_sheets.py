"""Sheets: what they show, where, and that they stay readable in odd cases."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from stillroom.stages.evaluate.confusion import ConfusionMatrix, Scores
from stillroom.stages.pictures.iou_chart import iou_chart
from stillroom.stages.pictures.palette import PADDING, heat, palette
from stillroom.stages.pictures.picture_kinds import PICTURES
from stillroom.stages.pictures.prediction_sheet import WRONG, error_map, prediction_sheet
from stillroom.stages.pictures.sheet import Cell, FrameRow, Sheet
from stillroom.stages.sources.canvas import CanvasFrame
from stillroom.storage_specs.artifacts import ARTIFACTS
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("sky", "road", "car")
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (12, 16, 3)).astype(np.uint8)
LABEL = np.repeat(np.array([0, 1, 255], np.uint8), 4)[:, None].repeat(16, axis=1)
PREDICTION = np.full((12, 16), 1, np.uint8)


def frame(**changes: object) -> CanvasFrame:
    found = CanvasFrame("seq/frame_01", IMAGE, LABEL, (12, 16))
    return replace(found, **changes)  # type: ignore[arg-type]


def predicted(
    path: Path, *frames: CanvasFrame, classes: tuple[str, ...] = CLASSES, **more: Any
) -> Path:
    """A sheet of a student that says the same of every frame."""
    found = {"student": [PREDICTION] * len(frames)}
    return prediction_sheet(path, frames, found, classes, **more)


LOGITS = np.zeros((3, 3, 4), np.float32)
LOGITS[2] = 5
CACHED = {
    "labels": Cell("classes", LABEL),
    "logits": Cell("scores", LOGITS, stride=4),
    "confidence": Cell("heat", np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4), stride=4),
    "pseudo_label": Cell("sure_classes", np.where(LABEL == 0, 255, 1).astype(np.uint8)),
}


def contact_sheet(path: Path, *rows: dict[str, Cell], threshold: float | None = None) -> Path:
    """A sheet of what is cached of a frame; {} stands for all of `CACHED`."""
    shown = [
        FrameRow("seq/frame_01", IMAGE, [{**CACHED, **row}[name] for name in CACHED])
        for row in rows
    ]
    return Sheet("test", ("frame", *CACHED), shown, CLASSES, threshold=threshold).save(path)


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
    found = {"fpn": scores(0.75), "student": scores(0.5)}
    predictions = {"fpn": [LABEL.clip(0, 1)] * 2, "student": [PREDICTION] * 2}
    made = prediction_sheet(
        path, [frame(), frame()], predictions, CLASSES, scores=found, title="test"
    )
    assert made == path
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
    assert "ignored" in words


def test_pictures_show_each_class_in_its_colour_over_its_share(tmp_path: Path) -> None:
    path = predicted(tmp_path / "sheet.png", frame())
    width = (1880 - 2 * 28 - 3 * 12) // 4
    tile = width * round(width * 12 / 16)
    sky, road, car = (tuple(colour) for colour in palette(CLASSES).tolist())
    found = np.array(pixels_of(path, sky, road, car)) / tile
    # sky: a third of the label. road: a third of it, and all of the prediction. And the legend.
    assert found == pytest.approx([1 / 3, 4 / 3, 0], abs=0.01)


def test_without_labels_there_is_neither_label_nor_error(tmp_path: Path, words: list[str]) -> None:
    predicted(tmp_path / "sheet.png", frame(label=None))
    assert words[2:4] == ["frame", "student"]
    assert not [name for name in words if "error" in name or "accuracy" in name or "ignore" in name]


def test_a_frame_without_a_label_leaves_empty_fields(tmp_path: Path, words: list[str]) -> None:
    predicted(tmp_path / "sheet.png", frame(), frame(label=None))
    assert words.count("no label") == 2
    assert "errors of student, in red" in words  # there is no other whose errors are not shown


def test_with_150_classes_the_legend_names_those_that_can_be_seen(
    tmp_path: Path, words: list[str]
) -> None:
    names = tuple(f"class number {index}" for index in range(150))
    label = RNG.integers(0, 150, (12, 16)).astype(np.uint8)
    few = frame(label=np.full_like(label, 7))
    predicted(tmp_path / "few.png", few, classes=names, scores={"student": scores(0.5, names)})
    assert "Classes (2 of 150, those on this sheet) with the IoU of student" in words
    assert [name for name in words if name.startswith("class number")] == [
        "class number 1",
        "class number 7",
    ]
    words.clear()
    predicted(tmp_path / "many.png", frame(label=label), classes=names)
    seen = len(np.unique(np.append(label, PREDICTION)))
    assert f"Classes ({seen} of 150, those on this sheet)" in words
    assert len([name for name in words if name.startswith("class number")]) == seen


def test_long_names_are_shortened_and_signs_are_not_read_as_formulas(
    tmp_path: Path, words: list[str]
) -> None:
    name = "very/long/" + "folder/" * 30 + "$x_1^2$.png"
    classes = ("sky", "$a_b$", "c" * 300)
    prediction_sheet(
        tmp_path / "x.png", [frame(frame_id=name)], {name: [PREDICTION]}, classes, title=name
    )
    assert any("…" in word and word.endswith("$x_1^2$.png") for word in words)
    assert "$a_b$" in words


def test_padding_is_grey_in_every_column_and_counts_nowhere(
    tmp_path: Path, words: list[str]
) -> None:
    row = frame(valid=(6, 16), label=np.full_like(LABEL, 0))
    path = predicted(tmp_path / "sheet.png", row)
    width = (1880 - 2 * 28 - 3 * 12) // 4
    grey = pixels_of(path, PADDING)[0] / (width * round(width * 12 / 16))
    # half of four columns, less the blur where the frame, enlarged smoothly, meets its padding
    assert 1.85 < grey <= 2
    assert "pixel accuracy 0.000" in words
    assert "padding" in words


@pytest.mark.parametrize("shape", [(200, 20), (20, 200), (1, 1), (900, 1200)])
def test_frames_of_any_shape_fit(shape: tuple[int, int], tmp_path: Path, words: list[str]) -> None:
    label = np.zeros(shape, np.uint8)
    odd = CanvasFrame("odd", np.zeros((*shape, 3), np.uint8), label, shape)
    found = {"student": [PREDICTION, label]}
    path = prediction_sheet(tmp_path / "sheet.png", [frame(), odd], found, CLASSES)
    with Image.open(path) as drawn:
        assert drawn.width <= 1880
    assert "odd" in words


def test_rows_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    with pytest.raises(ConfigError, match="at least one frame"):
        predicted(path)
    with pytest.raises(
        ArtifactError, match=r"student \(3, 4\) does not cover the frame \(12, 16\)"
    ):
        prediction_sheet(path, [frame()], {"student": [PREDICTION[:3, :4]]}, CLASSES)
    with pytest.raises(ArtifactError, match="got 3"):
        predicted(path, frame(label=np.full_like(LABEL, 3)))
    assert not path.exists()


def test_a_contact_sheet_shows_all_that_is_cached(tmp_path: Path, words: list[str]) -> None:
    path = contact_sheet(tmp_path / "sheet.png", {}, threshold=0.7)
    assert words[2:7] == ["frame", "labels", "logits", "confidence", "pseudo_label"]
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
    bare = {name: replace(CACHED[name], array=None, note=f"no {name}")
            for name in ("labels", "logits", "pseudo_label")}  # fmt: skip
    contact_sheet(tmp_path / "sheet.png", bare)
    assert words[2:4] == ["frame", "confidence"]
    assert "Classes" not in words  # no colour of a class can be seen
    words.clear()
    contact_sheet(tmp_path / "sheet.png", bare, {})
    assert {"no labels", "no logits", "no pseudo_label"} <= set(words)


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_the_mark_of_the_threshold_never_runs_into_a_tick(
    threshold: float, tmp_path: Path, words: list[str]
) -> None:
    contact_sheet(tmp_path / "sheet.png", {}, threshold=threshold)
    assert f"threshold {threshold:.2f}" in words


def test_an_artifact_of_another_grid_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "s.png"
    with pytest.raises(ArtifactError, match=r"seq/frame_01: confidence: .* stride 8"):
        contact_sheet(path, {"confidence": replace(CACHED["confidence"], stride=8)})
    with pytest.raises(ArtifactError, match=r"seq/frame_01: pseudo_label \(4, 16\)"):
        contact_sheet(path, {"pseudo_label": Cell("sure_classes", LABEL[:4])})
    with pytest.raises(ConfigError, match="at least one frame"):
        contact_sheet(path)


def test_every_kind_of_artifact_has_a_picture() -> None:
    assert {row.picture for row in ARTIFACTS.values()} <= set(PICTURES)


def test_depth_channels_and_flow_are_drawn_on_one_scale_for_all_frames(
    tmp_path: Path, words: list[str]
) -> None:
    far, near = np.full((3, 4), 80, np.float32), np.full((3, 4), 20, np.float32)
    far[0, 0] = 0  # not known
    flow = np.zeros((2, 12, 16), np.float32)
    flow[0] = 8
    features = Cell("channels", LOGITS, stride=4)
    rows = [
        FrameRow("f", IMAGE, [Cell("depth", depth, stride=4), Cell("flow", vectors), features])
        for depth, vectors in ((far, flow / 2), (near, flow))
    ]
    sheet = Sheet("t", ("frame", "depth", "flow", "features/x"), rows, CLASSES)
    path = sheet.save(tmp_path / "x.png")
    assert {"median 80 m", "median 20 m", "80 and more", "40"} <= set(words)
    assert {"longest 4.0 px", "longest 8.0 px"} <= set(words)
    assert "root mean square of 3 channels" in words
    assert "Classes" not in words
    width = (1880 - 2 * 28 - 3 * 12) // 4
    tile = width * round(width * 12 / 16)
    full, quarter, missing = pixels_of(path, heat()[255], heat()[64], PADDING)
    assert full > 1.5 * tile  # the far frame's depth, but for what is not known, and the channels
    assert quarter > 0.95 * tile
    assert missing > 0


def test_more_frames_than_a_picture_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"too large to draw .* fewer frames"):
        contact_sheet(tmp_path / "s.png", *[{}] * 200)


def test_drawing_leaves_matplotlib_as_it_was_and_is_the_same_every_time(tmp_path: Path) -> None:
    import matplotlib

    matrix = ConfusionMatrix(3)
    matrix.update(PREDICTION, LABEL)
    found = {"student": matrix.scores(CLASSES)}
    with matplotlib.rc_context({"font.size": 30, "savefig.bbox": "tight", "figure.dpi": 50}):
        before = dict(matplotlib.rcParams)
        predicted(tmp_path / "a.png", frame(), scores=found)
        iou_chart(tmp_path / "chart_a.png", found)
        assert dict(matplotlib.rcParams) == before
    predicted(tmp_path / "b.png", frame(), scores=found)
    iou_chart(tmp_path / "chart_b.png", found)
    for name in ("", "chart_"):
        one, other = (tmp_path / f"{name}{letter}.png" for letter in "ab")
        assert one.read_bytes() == other.read_bytes()
