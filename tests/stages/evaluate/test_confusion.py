"""Confusion and scores against tables worked by hand and an independent pixel loop."""

from __future__ import annotations

import numpy as np
import pytest

from stillroom.stages.evaluate.confusion import ConfusionMatrix
from stillroom.storage_specs.errors import ArtifactError, ConfigError


def table(rows: list[list[int]]) -> np.ndarray:
    return np.array(rows, np.uint8)


def test_three_classes_match_the_table_worked_by_hand() -> None:
    label = table([[0, 0, 0, 1], [1, 1, 2, 255]])
    prediction = table([[0, 0, 1, 1], [1, 2, 2, 0]])
    matrix = ConfusionMatrix(3)
    matrix.update(prediction, label)
    assert matrix.counts.tolist() == [[2, 1, 0], [0, 2, 1], [0, 0, 1]]
    scores = matrix.scores(["sky", "road", "car"])
    assert scores.iou == pytest.approx((2 / 3, 2 / 4, 1 / 2))
    assert scores.accuracy == pytest.approx((2 / 3, 2 / 3, 1.0))
    assert scores.miou == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)
    assert scores.mean_accuracy == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert scores.pixel_accuracy == pytest.approx(5 / 7)
    assert scores.pixels == (3, 3, 1)
    assert scores.absent == ()


def test_a_class_without_a_labelled_pixel_is_left_out_and_named_even_if_predicted() -> None:
    label = table([[0, 0, 1, 1]])
    prediction = table([[0, 2, 1, 1]])  # one false positive of the absent class 2; 3 never appears
    matrix = ConfusionMatrix(4)
    matrix.update(prediction, label)
    scores = matrix.scores(["a", "b", "c", "d"])
    assert scores.iou == (0.5, 1.0, None, None)
    assert scores.accuracy == (0.5, 1.0, None, None)
    assert scores.miou == 0.75  # 0 for class 2 would give 0.5
    assert scores.mean_accuracy == 0.75
    assert scores.pixel_accuracy == 0.75  # the false positive still is a wrong pixel
    assert scores.absent == ("c", "d")


def test_a_class_that_is_never_predicted_counts_as_zero() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(table([[0, 0]]), table([[0, 1]]))
    assert matrix.scores().iou == (0.5, 0.0)
    assert matrix.scores().miou == 0.25


def loop_scores(prediction: np.ndarray, label: np.ndarray, classes: int) -> tuple:
    """Each score by its definition as sets of pixels, one class at a time, in float64."""
    iou, recall = {}, {}
    counted = [
        (int(p), int(t)) for p, t in zip(prediction.flat, label.flat, strict=True) if t != 255
    ]
    for c in range(classes):
        truth = {k for k, (_, t) in enumerate(counted) if t == c}
        guess = {k for k, (p, _) in enumerate(counted) if p == c}
        if truth:
            iou[c] = len(truth & guess) / len(truth | guess)
            recall[c] = len(truth & guess) / len(truth)
    right = sum(p == t for p, t in counted) / len(counted)
    return iou, sum(iou.values()) / len(iou), sum(recall.values()) / len(recall), right


@pytest.mark.parametrize(("classes", "present"), [(3, 3), (11, 8), (150, 97), (255, 255)])
def test_scores_match_an_independent_pixel_loop(classes: int, present: int) -> None:
    rng = np.random.default_rng(classes)
    label = rng.integers(0, present, (3, 17, 23)).astype(np.uint8)
    prediction = np.where(
        rng.random(label.shape) < 0.6, label, rng.integers(0, classes, label.shape)
    )
    label[rng.random(label.shape) < 0.2] = 255
    matrix = ConfusionMatrix(classes)
    for one, truth in zip(prediction.astype(np.uint8), label, strict=True):  # frame by frame
        matrix.update(one, truth)
    iou, miou, mean_accuracy, pixel_accuracy = loop_scores(prediction, label, classes)
    scores = matrix.scores()
    assert {c: value for c, value in enumerate(scores.iou) if value is not None} == pytest.approx(
        iou
    )
    assert scores.miou == pytest.approx(miou, abs=1e-12)
    assert scores.mean_accuracy == pytest.approx(mean_accuracy, abs=1e-12)
    assert scores.pixel_accuracy == pytest.approx(pixel_accuracy, abs=1e-12)
    assert sum(scores.pixels) == int((label != 255).sum())
    assert len(scores.absent) == classes - len(iou)


def test_scores_are_over_all_pixels_and_not_a_mean_over_frames() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(table([[0]]), table([[0]]))
    matrix.update(table([[1, 1, 1]]), table([[0, 0, 0]]))
    assert matrix.scores().iou[0] == 0.25  # the mean over frames would be 0.5


def test_what_is_predicted_on_ignored_pixels_does_not_matter() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(table([[0, 255, 9]]), table([[0, 255, 255]]))
    assert matrix.counts.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (table([[0, 0]]), table([[0, 3]]), r"label: expected 0\.\.2 or 255 \(ignore\), got 3 in 1"),
        (table([[7, 0]]), table([[0, 0]]), r"prediction: expected 0\.\.2, got 7"),
        (np.array([[-1]]), table([[0]]), r"prediction: expected 0\.\.2, got -1"),
        (np.array([[0]]), np.array([[-1]]), "label: .* got -1"),
        (np.array([[0]]), np.array([[256]]), "label: .* got 256"),
        (table([[0]]), table([[0, 0]]), r"\(1, 1\) and label \(1, 2\) differ"),
        (np.zeros((1, 1)), table([[0]]), "prediction: expected class indices, got float64"),
        (table([[0]]), np.zeros((1, 1), bool), "label: expected class indices, got bool"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_and_nothing_is_counted(
    prediction: np.ndarray, label: np.ndarray, message: str
) -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(ArtifactError, match=message):
        matrix.update(prediction, label)
    assert not matrix.counts.any()


def test_no_labelled_pixel_is_an_error_and_not_a_score() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(table([[0]]), table([[255]]))
    with pytest.raises(ArtifactError, match="nothing to score"):
        matrix.scores()


@pytest.mark.parametrize("count", [0, 256])
def test_a_matrix_has_at_least_one_and_at_most_255_classes(count: int) -> None:
    with pytest.raises(ConfigError, match=f"got {count}"):
        ConfusionMatrix(count)


def test_names_must_be_as_many_as_classes() -> None:
    with pytest.raises(ConfigError, match="2 class names for 3 classes"):
        ConfusionMatrix(3).scores(["a", "b"])


def test_the_document_says_none_where_a_class_is_absent() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(table([[0]]), table([[0]]))
    document = matrix.scores(["a", "b"]).to_dict()
    assert document["absent"] == ["b"]
    assert document["classes"][1] == {"name": "b", "iou": None, "accuracy": None, "pixels": 0}
