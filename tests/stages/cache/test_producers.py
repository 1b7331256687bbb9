"""The artifacts of a frame from logits that are written down here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stillroom.stages.cache.cache_shard import reason_unusable
from stillroom.stages.cache.inputs import mean_confidence
from stillroom.stages.cache.producers import TeacherArtifacts
from stillroom.stages.models.makers import MAKERS, output_of
from stillroom.stages.sources.canvas import CanvasFrame
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.artifacts import ARTIFACTS
from stillroom.storage_specs.errors import ConfigError

CANVAS = (8, 12)
VALID = (5, 9)  # of 8 x 12 pixels; 2 x 3 cells of stride 4: rows 0-1, columns 0-2


class Written:
    """A teacher whose logits are given: (B, C, h, w)."""

    device = "cpu"

    def __init__(self, logits: torch.Tensor, stride: int) -> None:
        self._logits = logits
        self.strides = {"logits": stride, "features/deep": stride}

    def __call__(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        assert frames.shape == (len(self._logits), *CANVAS, 3)
        return {"logits": self._logits, "features/deep": 2 * self._logits}


def canvas_frame(valid: tuple[int, int] = CANVAS) -> CanvasFrame:
    return CanvasFrame("f", np.zeros((*CANVAS, 3), np.uint8), None, valid)


def made_of(
    logits: torch.Tensor, artifacts: tuple[str, ...], *, stride: int = 4, **changes: Any
) -> list[dict[str, np.ndarray]]:
    threshold, valid = changes.get("threshold", 0.0), changes.get("valid", CANVAS)
    teacher: Any = Written(logits, stride)
    return TeacherArtifacts(teacher, artifacts, threshold)([canvas_frame(valid)] * len(logits))


def some_logits(stride: int = 4, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(count, 3, CANVAS[0] // stride, CANVAS[1] // stride, generator=generator)


def test_each_frame_gets_its_own_artifacts_and_no_others() -> None:
    logits = some_logits()
    made = made_of(logits, ("logits", "confidence", "features/deep"))
    for position, arrays in enumerate(made):
        assert list(arrays) == ["logits", "confidence", "features/deep"]
        np.testing.assert_array_equal(arrays["logits"], logits[position])
        np.testing.assert_array_equal(arrays["features/deep"], 2 * logits[position])
        powers = np.exp(logits[position].double().numpy())
        np.testing.assert_allclose(arrays["confidence"], (powers / powers.sum(0)).max(0), 1e-5)
        assert all(array.dtype == np.float32 for array in arrays.values())


def test_pseudo_labels_are_255_outside_the_photo_and_the_best_class_within() -> None:
    logits = some_logits(stride=1)
    for position, arrays in enumerate(made_of(logits, ("pseudo_label",), stride=1, valid=VALID)):
        label = arrays["pseudo_label"]
        assert label.dtype == np.uint8
        assert label.shape == CANVAS
        expected = np.full(CANVAS, 255)
        expected[: VALID[0], : VALID[1]] = logits[position].argmax(0)[: VALID[0], : VALID[1]]
        np.testing.assert_array_equal(label, expected)


def test_pseudo_labels_are_taken_from_upsampled_logits() -> None:
    logits = torch.zeros(1, 2, 2, 3)
    logits[0, 1, :, 2] = 8.0  # class 1 in the right column of cells
    label = made_of(logits, ("pseudo_label",))[0]["pseudo_label"]
    assert label.shape == CANVAS
    # a tie is the first class; the slope begins half a cell before the column, at pixel 6
    np.testing.assert_array_equal(label, np.tile(np.arange(12) >= 6, (8, 1)))


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [(0.0, True), (0.5, True), (float(np.nextafter(np.float32(0.5), 1)), False), (1.0, False)],
)
def test_a_pixel_just_at_the_threshold_keeps_its_label(threshold: float, kept: bool) -> None:
    logits = torch.zeros(1, 2, 8, 12)  # two classes at exactly 0.5 each
    label = made_of(logits, ("pseudo_label",), stride=1, threshold=threshold)[0]["pseudo_label"]
    assert (label == (0 if kept else 255)).all()


def test_a_certain_pixel_passes_the_highest_threshold() -> None:
    logits = torch.zeros(1, 2, 8, 12)
    logits[:, 1] = 200.0  # a softmax of exactly 1
    label = made_of(logits, ("pseudo_label",), stride=1, threshold=1.0)[0]["pseudo_label"]
    assert (label == 1).all()


def test_the_last_class_that_a_pseudo_label_can_say_is_254() -> None:
    logits = torch.zeros(1, 256, 8, 12)
    logits[:, 254] = 9.0
    label = made_of(logits[:, :255], ("pseudo_label",), stride=1)[0]["pseudo_label"]
    assert (label == 254).all()
    with pytest.raises(ConfigError, match=r"256 classes.*at most 255"):
        made_of(logits, ("pseudo_label",), stride=1)
    assert made_of(logits, ("logits",), stride=1)[0]["logits"].shape == (256, 8, 12)


def test_the_confidence_of_a_pixel_is_what_its_pseudo_label_was_judged_by() -> None:
    logits, names = some_logits(), ("pixel_confidence", "pseudo_label")
    powers = upsample_logits(logits, 4, CANVAS).double().exp()
    for position, arrays in enumerate(made_of(logits, names, valid=VALID)):
        sure = arrays["pixel_confidence"]
        assert (sure.shape, sure.dtype) == (CANVAS, np.float32)
        expected = (powers[position] / powers[position].sum(0)).amax(0).numpy()
        expected[VALID[0] :] = 0
        expected[:, VALID[1] :] = 0
        np.testing.assert_allclose(sure, expected, rtol=1e-6)
        for threshold in (0.4, 0.6, 0.9):
            judged = made_of(logits, names, valid=VALID, threshold=threshold)[position]
            kept = np.where(sure >= np.float32(threshold), arrays["pseudo_label"], 255)
            np.testing.assert_array_equal(judged["pseudo_label"], kept)


def test_mean_confidence_is_taken_of_pixels_where_there_is_no_other() -> None:
    made = made_of(some_logits(count=1), ("pixel_confidence",), valid=VALID)[0]
    expected = made["pixel_confidence"][: VALID[0], : VALID[1]].mean(dtype=np.float64)
    assert mean_confidence(made, canvas_frame(VALID)) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("valid", "cells"),
    [((8, 12), (2, 3)), ((5, 9), (2, 3)), ((4, 8), (1, 2)), ((4, 9), (1, 3)), ((1, 1), (1, 1))],
)
def test_mean_confidence_counts_the_cells_that_show_the_photo(
    valid: tuple[int, int], cells: tuple[int, int]
) -> None:
    confidence = np.array([[0.1, 0.2, 0.4], [0.8, 0.3, 0.9]], np.float32)
    expected = confidence[: cells[0], : cells[1]].mean(dtype=np.float64)
    mean = mean_confidence({"confidence": confidence}, canvas_frame(valid))
    assert mean == pytest.approx(expected, abs=1e-7)


def test_mean_confidence_may_be_absent() -> None:
    assert mean_confidence({}, canvas_frame()) is None


@pytest.mark.parametrize("artifact", ["features/shallow", "features/logits"])
def test_an_unknown_layer_is_refused_with_those_there_are(artifact: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made_of(some_logits(), (artifact,))
    assert repr(artifact) in str(caught.value)
    known = "known: logits, pseudo_label, confidence, pixel_confidence, features/deep"
    assert known in str(caught.value)
    assert output_of("features/deep", ("logits", "features/deep")) == "features/deep"
    assert output_of("confidence", ("logits",)) == "logits"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_may_not_be_cached_and_is_counted(value: float) -> None:
    arrays = {"pseudo_label": np.zeros((2, 2), np.uint8), "logits": np.zeros((3, 2), np.float32)}
    assert reason_unusable(arrays) is None
    arrays["logits"][1, 1] = value
    assert reason_unusable(arrays) == "output logits is not finite in 1 of 6 values"


def test_every_artifact_of_a_teacher_has_a_maker_and_no_other() -> None:
    assert set(MAKERS) == {row.name for row in ARTIFACTS.values() if row.made_by == "teacher"}


def test_the_shapes_are_those_of_the_artifacts_and_strides_those_of_the_grids() -> None:
    artifacts = ("logits", "pseudo_label", "confidence", "pixel_confidence", "features/deep")
    teacher: Any = Written(some_logits(count=1), 4)
    assert TeacherArtifacts(teacher, artifacts, 0.7).shapes(CANVAS) == {
        "logits": ((3, 2, 3), 4),
        "pseudo_label": ((8, 12), 1),
        "confidence": ((2, 3), 4),
        "pixel_confidence": ((8, 12), 1),
        "features/deep": ((3, 2, 3), 4),
    }
