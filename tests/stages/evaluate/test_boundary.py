"""Boundary IoU against its definition, pixel by pixel and class by class."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stillroom.stages.evaluate.boundary import BoundaryCounts, along_outlines
from stillroom.stages.evaluate.confusion import ConfusionMatrix


def outline(mask: np.ndarray, reach: int) -> set[tuple[int, int]]:
    """The pixels of a mask that `reach` erosions by a 3x3 square take away; outside is not it."""
    left = np.pad(mask, 1)
    for _ in range(reach):
        shifts = [np.roll(left, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        left = np.logical_and.reduce(shifts)
        left[0], left[-1], left[:, 0], left[:, -1] = False, False, False, False
    gone = mask & ~left[1:-1, 1:-1]
    return set(zip(*(axis.tolist() for axis in np.nonzero(gone)), strict=True))


def by_definition(pairs: list, size: int) -> list[float]:
    both, either = [0] * size, [0] * size
    for prediction, label in pairs:
        reach = max(1, round(0.02 * math.sqrt(label.shape[0] ** 2 + label.shape[1] ** 2)))
        known = label != 255
        for c in range(size):
            truth = outline(label == c, reach)
            guess = outline((prediction == c) & known, reach)
            both[c] += len(truth & guess)
            either[c] += len(truth | guess)
    return [inside / around if around else 0.0 for inside, around in zip(both, either, strict=True)]


def blobs(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 4, (height // 20, width // 20)), np.ones((20, 20))).astype(
        np.uint8
    )


@pytest.mark.parametrize("size", [(60, 80), (100, 140)])  # reaches of 2 and of 3
def test_it_is_the_definition(size: tuple[int, int]) -> None:
    counts, matrix, pairs = BoundaryCounts(5), ConfusionMatrix(5), []  # class 4 is nowhere
    for seed in range(3):
        label, prediction = blobs(seed, *size), blobs(seed, *size)
        prediction = np.roll(prediction, seed, axis=1)  # 0, 1 and 2 pixels off
        prediction[:20, :20] = 3
        label[10:35, 15:30] = 255
        pairs.append((prediction, label))
        counts.update(prediction, label)
        matrix.update(prediction, label)
    found = counts.scores(matrix.scores(ignored=["1"]))
    expected = by_definition(pairs, 5)
    assert found.iou == (*(pytest.approx(iou) for iou in expected[:4]), None)
    assert found.miou == pytest.approx((expected[0] + expected[2] + expected[3]) / 3)
    assert 0.3 < found.miou < 0.98


def test_a_perfect_prediction_scores_one_and_what_is_inside_does_not_count() -> None:
    label = np.zeros((60, 80), np.uint8)
    label[10:50, 10:70] = 1
    counts, matrix = BoundaryCounts(2), ConfusionMatrix(2)
    holed = label.copy()
    holed[25:35, 30:50] = 0  # far from every outline of the label
    for prediction in (label, holed):
        counts.update(prediction, label)
        matrix.update(prediction, label)
    assert not along_outlines(label, 2)[25:35, 30:50].any()
    scores = counts.scores(matrix.scores())
    assert scores.iou[1] is not None
    hole = 14 * 24 - 10 * 20  # what lies along the hole is outline in the prediction alone
    around = along_outlines(label, 2)[label == 1].sum()
    assert scores.iou[1] == pytest.approx(2 * around / (2 * around + hole))
