"""Scores at the labels' own size against bilinear interpolation and counting written out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from stillroom.stages.evaluate.evaluation import evaluate_source
from stillroom.stages.evaluate.predict import Prediction, predictions, read_frames
from stillroom.storage_specs.errors import ConfigError
from tests.stages.evaluate.test_evaluation import ListSource, frame, random_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRIDE, CANVAS = 4, (16, 24)


def noise(frames: NDArray[np.uint8]) -> tuple[torch.Tensor, int]:
    """Logits that depend on the frame's colours in no simple way."""
    red = frames[:, ::STRIDE, ::STRIDE, 0].astype(np.float64)  # (B, h, w)
    waves = [np.sin(red * k + np.arange(red.shape[2]) * k * 1.3) for k in (1, 2, 3)]
    return torch.from_numpy(np.stack(waves, 1)).float(), STRIDE


def bilinear(grid: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """(C, h, w) to (C, *size): each new pixel's centre looked up between the old centres."""
    _, height, width = grid.shape
    out = np.zeros((len(grid), *size))
    for row in range(size[0]):
        y = min(max((row + 0.5) * height / size[0] - 0.5, 0), height - 1)
        top, v = int(y), y - int(y)
        below = min(top + 1, height - 1)
        for column in range(size[1]):
            x = min(max((column + 0.5) * width / size[1] - 0.5, 0), width - 1)
            left, u = int(x), x - int(x)
            right = min(left + 1, width - 1)
            upper = (1 - u) * grid[:, top, left] + u * grid[:, top, right]
            lower = (1 - u) * grid[:, below, left] + u * grid[:, below, right]
            out[:, row, column] = (1 - v) * upper + v * lower
    return out


def expected_classes(source: ListSource, index: int) -> NDArray[np.int64]:
    (fitted,) = read_frames(source, CANVAS, [index])
    logits = noise(fitted.image[None])[0][0].double().numpy()
    pixels = bilinear(logits, (logits.shape[1] * STRIDE, logits.shape[2] * STRIDE))
    height, width = fitted.valid
    return bilinear(pixels[:, :height, :width], source.frames[index].label.shape).argmax(0)


def test_logits_without_padding_are_brought_to_the_label_and_counted_there() -> None:
    sizes = [(32, 30), (11, 24), (16, 24)]  # smaller than the canvas with padding, larger, alike
    source = ListSource([frame(random_label(at, *size)) for at, size in enumerate(sizes)])
    classes = [expected_classes(source, index) for index in range(3)]
    read = read_frames(source, CANVAS, range(3), own_labels=True)
    found = [one.classes for one in predictions(noise, read) if isinstance(one, Prediction)]
    for mine, theirs in zip(found, classes, strict=True):
        assert mine.shape == theirs.shape
        assert (mine == theirs).mean() > 0.998  # a tie, in float32, may fall either way
    ious = []
    for c in range(3):
        labels = [each.label for each in source.frames]
        inside = sum(((p == c) & (t == c)).sum() for p, t in zip(found, labels, strict=True))
        around = sum(
            (((p == c) | (t == c)) & (t != 255)).sum() for p, t in zip(found, labels, strict=True)
        )
        ious.append(inside / around)
    result = evaluate_source(noise, source, CANVAS, own_size=True)
    assert result.scores.iou == pytest.approx(tuple(ious))
    assert sum(result.scores.pixels) == sum((f.label != 255).sum() for f in source.frames)
    assert result.size == "own, 3 sizes"
    assert result.scores != evaluate_source(noise, source, CANVAS).scores


def test_a_result_says_at_which_size_it_is() -> None:
    source = ListSource([frame(random_label(0, 32, 30)), frame(random_label(1, 32, 30))])
    assert evaluate_source(noise, source, CANVAS).size == "canvas 16x24"
    result = evaluate_source(noise, source, CANVAS, own_size=True)
    assert result.size == "own 32x30"
    assert json.loads(json.dumps(result.to_dict()))["size"] == "own 32x30"


def test_ignored_classes_are_left_out_of_the_means_and_still_count_as_pixels() -> None:
    source = ListSource([frame(random_label(seed)) for seed in range(3)])
    whole = evaluate_source(noise, source, None)
    found = evaluate_source(noise, source, None, ignored=["b"])
    assert found.scores.iou == whole.scores.iou
    assert found.scores.pixel_accuracy == whole.scores.pixel_accuracy
    left = [whole.scores.iou[0], whole.scores.iou[2]]
    assert found.scores.miou == pytest.approx(sum(left) / 2)
    assert found.boundary.miou == pytest.approx((found.boundary.iou[0] + found.boundary.iou[2]) / 2)
    document = found.to_dict()
    assert document["ignored"] == ["b"]
    assert document["classes"][1]["boundary_iou"] == found.boundary.iou[1]


def test_ignoring_no_class_or_all_is_an_explained_error() -> None:
    source = ListSource([frame(random_label(0))])
    with pytest.raises(ConfigError, match=r"evaluate.ignore: no class 'void'; the labels have a"):
        evaluate_source(noise, source, None, ignored=["void"])
    with pytest.raises(ConfigError, match="every class that the labels show is ignored: a, b, c"):
        evaluate_source(noise, source, None, ignored=["a", "b", "c"])
