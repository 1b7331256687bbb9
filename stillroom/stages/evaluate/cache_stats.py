"""What a teacher's cached output looks like over a whole source, in pieces that merge.

What a threshold keeps is told by the rule that makes pseudo-labels: logits upsampled to the frame's
pixels, softmax, the highest probability at or above the threshold. Without logits the cached
confidence, upsampled, and the cached pseudo-label stand for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillroom.stages.evaluate.moments import Moments
from stillroom.stages.evaluate.value_range import Range
from stillroom.stages.geometry import upsample_logits
from stillroom.storage_specs.artifacts import IGNORE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Counts = NDArray[np.int64]

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
BINS = 20


@dataclass(frozen=True, eq=False)
class StatsFrame:
    """What the cache holds of one frame; None stands for what is not cached.

    label, pseudo_label: (H, W) uint8, 255 = none; logits (C, h, w), confidence (h, w), features
    (A, h', w'): float32, decoded; stride: pixels to a cell of logits and confidence
    ranges: by artifact, what only has a range, (h'', w'') float32 with 0 for no value, and its
        stride
    size: (H, W) of the canvas; valid: (height, width) of the part that is no padding
    """

    label: NDArray[np.uint8] | None
    pseudo_label: NDArray[np.uint8] | None
    logits: NDArray[np.float32] | None
    confidence: NDArray[np.float32] | None
    features: NDArray[np.float32] | None
    stride: int
    features_stride: int
    size: tuple[int, int]
    valid: tuple[int, int]
    ranges: Mapping[str, tuple[NDArray[np.float32], int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CacheStats:
    """Counts over frames; two of them merge into those of both.

    labels, pseudo_labels, best: pixels by class, (256,), 255 = none
    confidence: pixels by confidence in 20 equal bins of 0..1
    pixels: with a confidence; kept: those at or above each of `THRESHOLDS`
    labelled, labelled_kept, right: the same among pixels with a label, and how many of the kept
        ones carry the label's class
    features: by class of the cell's centre
    ranges: by artifact
    """

    frames: int
    labels: Counts
    pseudo_labels: Counts
    best: Counts
    confidence: Counts
    pixels: int
    kept: Counts
    labelled: int
    labelled_kept: Counts
    right: Counts
    features: Moments
    ranges: dict[str, Range] = field(default_factory=dict)

    @classmethod
    def empty(cls, classes: int, channels: int) -> CacheStats:
        """Of no frame."""

        def none(length: int) -> Counts:
            return np.zeros(length, np.int64)

        steps = len(THRESHOLDS)
        return cls(
            0, none(256), none(256), none(256), none(BINS), 0, none(steps), 0, none(steps),
            none(steps), Moments.empty(classes + 1, channels),
        )  # fmt: skip

    @property
    def of_classes(self) -> bool:
        """Whether anything was counted by class or by confidence."""
        return bool(self.pixels or self.labels.any() or self.pseudo_labels.any())

    def merge(self, other: CacheStats) -> CacheStats:
        """Of both together."""
        mine, theirs = self.__dict__, other.__dict__
        counts = [each.name for each in fields(self) if each.name not in ("features", "ranges")]
        return CacheStats(
            **{name: mine[name] + theirs[name] for name in counts},
            features=self.features.merge(other.features),
            ranges={
                name: self.ranges.get(name, Range()).merge(other.ranges.get(name, Range()))
                for name in {**self.ranges, **other.ranges}
            },
        )

    def document(self, classes: Sequence[str]) -> dict[str, Any]:
        """The same as JSON, without the features; classes that nothing has are left out."""
        found: dict[str, Any] = {
            "frames": self.frames,
            "labels": _named(self.labels, classes),
            "pseudo_label": _named(self.pseudo_labels, classes),
            "argmax_of_logits": _named(self.best, classes),
            "confidence_histogram": self.confidence.tolist(),
            "thresholds": [
                {
                    "threshold": threshold,
                    "kept": int(self.kept[step]) / self.pixels if self.pixels else None,
                    "accuracy": (
                        int(self.right[step]) / int(self.labelled_kept[step])
                        if self.labelled_kept[step]
                        else None
                    ),
                    "labelled_kept": (
                        int(self.labelled_kept[step]) / self.labelled if self.labelled else None
                    ),
                }
                for step, threshold in enumerate(THRESHOLDS)
            ],
        }  # fmt: skip
        if self.ranges:
            found["ranges"] = {name: one.document() for name, one in self.ranges.items()}
        return found


def stats_of_frame(frame: StatsFrame, classes: int) -> CacheStats:
    """The statistics of one frame; padding does not count."""
    rows, columns = frame.valid
    label = None if frame.label is None else frame.label[:rows, :columns]
    pseudo = None if frame.pseudo_label is None else frame.pseudo_label[:rows, :columns]
    sure, best = _word(frame)
    channels = 0 if frame.features is None else len(frame.features)
    none = CacheStats.empty(classes, channels)
    made = {**none.__dict__, "frames": 1}
    made["ranges"] = {
        name: Range.of(values[_shown(values.shape, stride, frame)])
        for name, (values, stride) in frame.ranges.items()
    }
    made["labels"] = _histogram(label)
    made["pseudo_labels"] = _histogram(pseudo)
    if frame.logits is not None:
        made["best"] = _histogram(best)
    if sure is not None:
        made |= _thresholds(sure, best, label)
    if frame.features is not None:
        made["features"] = _features(frame, frame.features, classes)
    return CacheStats(**made)


def _word(frame: StatsFrame) -> tuple[NDArray[np.float32] | None, NDArray[np.uint8] | None]:
    """Highest probability and its class of every pixel of the valid part."""
    rows, columns = frame.valid
    if frame.logits is not None:
        full = upsample_logits(torch.from_numpy(frame.logits[None]), frame.stride, frame.size)[0]
        sure, best = full[:, :rows, :columns].softmax(0).max(0)
        return sure.numpy(), best.to(torch.uint8).numpy()
    if frame.confidence is None:
        return None, None
    cells = torch.from_numpy(frame.confidence[None, None])
    whole = upsample_logits(cells, frame.stride, frame.size)[0, 0, :rows, :columns]
    said = None if frame.pseudo_label is None else frame.pseudo_label[:rows, :columns]
    return whole.numpy(), said


def _thresholds(
    sure: NDArray[np.float32], best: NDArray[np.uint8] | None, label: NDArray[np.uint8] | None
) -> dict[str, Any]:
    steps = np.searchsorted(np.asarray(THRESHOLDS, np.float32), sure, side="right")
    found: dict[str, Any] = {
        "confidence": np.histogram(sure, BINS, (0, 1))[0].astype(np.int64),
        "pixels": sure.size,
        "kept": _at_or_above(steps),
    }
    if label is None or best is None:
        return found
    counted = (label != IGNORE) & (best != IGNORE)
    found["labelled"] = int((label != IGNORE).sum())
    found["labelled_kept"] = _at_or_above(steps[counted])
    found["right"] = _at_or_above(steps[counted & (best == label)])
    return found


def _at_or_above(steps: NDArray[np.integer[Any]]) -> Counts:
    """How many pixels reach each threshold; `steps` says how many thresholds each reaches."""
    reached = np.bincount(steps.ravel(), minlength=len(THRESHOLDS) + 1)
    return reached[::-1].cumsum()[::-1][1:].astype(np.int64)


def _features(frame: StatsFrame, features: NDArray[np.float32], classes: int) -> Moments:
    """By the class of the pixel under each cell's centre; the last group has no class."""
    of = frame.label if frame.label is not None else frame.pseudo_label
    rows = _centres(features.shape[1], frame.features_stride, frame.size[0])
    columns = _centres(features.shape[2], frame.features_stride, frame.size[1])
    shown = _shown(features.shape[1:], frame.features_stride, frame)
    group = np.full(features.shape[1:], classes, np.int64)
    if of is not None:
        found = of[rows[:, None], columns[None, :]].astype(np.int64)
        group = np.where(found < classes, found, classes)
    vectors = features[:, shown].T  # (N, A)
    return Moments.of(vectors, group[shown], classes + 1)


def _shown(shape: tuple[int, ...], stride: int, frame: StatsFrame) -> NDArray[np.bool_]:
    """The cells whose centre shows the frame, and no padding of the canvas: (h, w)."""
    rows = _centres(shape[0], stride, frame.size[0]) < frame.valid[0]
    columns = _centres(shape[1], stride, frame.size[1]) < frame.valid[1]
    return np.logical_and.outer(rows, columns)


def _centres(cells: int, stride: int, size: int) -> Counts:
    """The pixel under each cell's centre: nearest, as labels are resized."""
    return np.minimum(((np.arange(cells) + 0.5) * stride).astype(np.int64), size - 1)


def _histogram(values: NDArray[np.uint8] | None) -> Counts:
    if values is None:
        return np.zeros(256, np.int64)
    return np.bincount(values.ravel(), minlength=256).astype(np.int64)


def _named(counts: Counts, classes: Sequence[str]) -> dict[str, int]:
    names = [*classes, *(str(index) for index in range(len(classes), 255)), "none"]
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}
