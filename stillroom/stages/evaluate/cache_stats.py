"""What a teacher's cached output looks like over a whole source, in pieces that merge.

What a threshold keeps follows the rule that makes pseudo-labels: logits upsampled to the frame's
pixels, softmax, the highest probability at or above the threshold. The cached pixel confidence is
that probability as the teacher gave it. Without it, it is computed from the cached logits; without
these the cached confidence, upsampled, and the cached pseudo-label stand for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillroom.stages.evaluate.moments import Moments
from stillroom.stages.evaluate.value_range import Range, merged
from stillroom.stages.upsample import upsample_logits
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
    (A, h', w'), pixel_confidence (H, W): float32, decoded; stride: pixels to a position of logits
    and confidence
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
    pixel_confidence: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class CacheStats:
    """Counts over frames; two of them merge into those of both.

    Attributes:
        features: by class of the pixel under each position's centre
        labels, pseudo_labels, best: pixels by class, (256,), 255 = none
        confidence: pixels by confidence in 20 equal bins of 0..1
        pixels: with a confidence; kept: those at or above each of `THRESHOLDS`
        labelled, labelled_kept, right: the same among pixels with a label, and how many of the kept
            ones carry the label's class
        ranges: by artifact
    """

    features: Moments
    frames: int = 0
    labels: Counts = field(default_factory=lambda: np.zeros(256, np.int64))
    pseudo_labels: Counts = field(default_factory=lambda: np.zeros(256, np.int64))
    best: Counts = field(default_factory=lambda: np.zeros(256, np.int64))
    confidence: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    pixels: int = 0
    kept: Counts = field(default_factory=lambda: np.zeros(len(THRESHOLDS), np.int64))
    labelled: int = 0
    labelled_kept: Counts = field(default_factory=lambda: np.zeros(len(THRESHOLDS), np.int64))
    right: Counts = field(default_factory=lambda: np.zeros(len(THRESHOLDS), np.int64))
    ranges: dict[str, Range] = field(default_factory=dict)

    @classmethod
    def empty(cls, classes: int, channels: int) -> CacheStats:
        """Return those of no frame."""
        return cls(Moments.empty(classes + 1, channels))

    @property
    def of_classes(self) -> bool:
        """Whether anything was counted by class or by confidence."""
        return bool(self.pixels or self.labels.any() or self.pseudo_labels.any())

    def merge(self, other: CacheStats) -> CacheStats:
        """Return those of both together."""
        mine, theirs = self.__dict__, other.__dict__
        counts = [each.name for each in fields(self) if each.name not in ("features", "ranges")]
        return CacheStats(
            **{name: mine[name] + theirs[name] for name in counts},
            features=self.features.merge(other.features),
            ranges=merged(self.ranges, other.ranges),
        )

    def class_weights(self, classes: Sequence[str]) -> dict[str, float]:
        """Return 1 / ln(1.02 + p) of each class, p its share of the labels, else of pseudo labels.

        Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time Semantic
        Segmentation", section 5.2, arXiv:1606.02147: 1.4 for a class that is everywhere, 50 for one
        that is nowhere.

        Returns:
            by name, to two decimals; nothing where there is no label of either kind
        """
        counts = self.labels if self.labels[:IGNORE].any() else self.pseudo_labels
        known = counts[: len(classes)]
        if not known.any():
            return {}
        weights = 1 / np.log(1.02 + known / known.sum())
        return {name: round(float(each), 2) for name, each in zip(classes, weights, strict=True)}

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return them as JSON, without the features; classes that nothing has are left out."""
        found: dict[str, Any] = {
            "frames": self.frames,
            "labels": _named(self.labels, classes),
            "pseudo_label": _named(self.pseudo_labels, classes),
            "class_weights": self.class_weights(classes),
            "argmax_of_logits": _named(self.best, classes),
            "confidence_histogram": self.confidence.tolist(),
            "thresholds": [
                {
                    "threshold": threshold,
                    "kept": _share(self.kept[step], self.pixels),
                    "accuracy": _share(self.right[step], self.labelled_kept[step]),
                    "labelled_kept": _share(self.labelled_kept[step], self.labelled),
                }
                for step, threshold in enumerate(THRESHOLDS)
            ],
        }
        if self.ranges:
            found["ranges"] = {name: one.to_dict() for name, one in self.ranges.items()}
        return found


def _share(part: int, whole: int) -> float | None:
    return int(part) / int(whole) if whole else None


def stats_of_frame(frame: StatsFrame, classes: int) -> CacheStats:
    """Return the statistics of one frame; padding does not count."""
    valid = np.s_[: frame.valid[0], : frame.valid[1]]
    label = None if frame.label is None else frame.label[valid]
    pseudo = None if frame.pseudo_label is None else frame.pseudo_label[valid]
    sure, best = _best_class(frame, pseudo)
    found: dict[str, Any] = {} if sure is None else _thresholds(sure, best, label)
    for name, values in ("labels", label), ("pseudo_labels", pseudo):
        if values is not None:
            found[name] = _histogram(values)
    if frame.logits is not None and best is not None:
        found["best"] = _histogram(best)
    ranges = {
        name: Range.of(values[_shown(values.shape, stride, frame)])
        for name, (values, stride) in frame.ranges.items()
    }
    return CacheStats(_features(frame, classes), frames=1, ranges=ranges, **found)


def _best_class(
    frame: StatsFrame, pseudo: NDArray[np.uint8] | None
) -> tuple[NDArray[np.float32] | None, NDArray[np.uint8] | None]:
    """Highest probability and its class of every pixel of the valid part."""
    sure, best = None, pseudo
    if frame.logits is not None:
        probability, classes = _upsampled(frame.logits, frame).softmax(0).max(0)
        sure, best = probability.numpy(), classes.to(torch.uint8).numpy()
    elif frame.confidence is not None:
        sure = _upsampled(frame.confidence[None], frame)[0].numpy()
    if frame.pixel_confidence is not None:
        sure = frame.pixel_confidence[: frame.valid[0], : frame.valid[1]]
    return sure, best


def _upsampled(grid: NDArray[np.float32], frame: StatsFrame) -> torch.Tensor:
    full = upsample_logits(torch.from_numpy(grid[None]), frame.stride, frame.size)[0]
    return full[:, : frame.valid[0], : frame.valid[1]]


def _thresholds(
    sure: NDArray[np.float32], best: NDArray[np.uint8] | None, label: NDArray[np.uint8] | None
) -> dict[str, Any]:
    steps = np.searchsorted(np.asarray(THRESHOLDS, np.float32), sure, side="right")
    found: dict[str, Any] = {
        "confidence": _bins(sure),
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


def _bins(sure: NDArray[np.float32]) -> Counts:
    """Count by bins; their edges in float32, as stored steps that lie on them are."""
    edges = (np.arange(1, BINS) / BINS).astype(np.float32)
    place = np.searchsorted(edges, sure.ravel(), side="right")
    return np.bincount(place, minlength=BINS).astype(np.int64)


def _at_or_above(steps: NDArray[np.integer[Any]]) -> Counts:
    """How many pixels reach each threshold; steps: how many thresholds each of them reaches."""
    reached = np.bincount(steps.ravel(), minlength=len(THRESHOLDS) + 1)
    return reached[::-1].cumsum()[::-1][1:].astype(np.int64)


def _features(frame: StatsFrame, classes: int) -> Moments:
    """By the class of the pixel under each position's centre; the last group has no class."""
    if frame.features is None:
        return Moments.empty(classes + 1, 0)
    of = frame.label if frame.label is not None else frame.pseudo_label
    shape = frame.features.shape[1:]
    shown = _shown(shape, frame.features_stride, frame)
    group = np.full(shape, classes, np.int64)
    if of is not None:
        found = of[np.ix_(*_centres(shape, frame.features_stride, frame))].astype(np.int64)
        group = np.where(found < classes, found, classes)
    vectors = frame.features[:, shown].T  # (N, A)
    return Moments.of(vectors, group[shown], classes + 1)


def _shown(shape: tuple[int, ...], stride: int, frame: StatsFrame) -> NDArray[np.bool_]:
    """The positions whose centre shows the frame, and no padding of the canvas: (h, w)."""
    rows, columns = _centres(shape, stride, frame)
    return np.logical_and.outer(rows < frame.valid[0], columns < frame.valid[1])


def _centres(shape: tuple[int, ...], stride: int, frame: StatsFrame) -> tuple[Counts, Counts]:
    """Row and column of the pixel under each position's centre: nearest, as labels are resized."""
    rows, columns = (
        np.minimum(((np.arange(count) + 0.5) * stride).astype(np.int64), size - 1)
        for count, size in zip(shape, frame.size, strict=True)
    )
    return rows, columns


def _histogram(values: NDArray[np.uint8]) -> Counts:
    return np.bincount(values.ravel(), minlength=256).astype(np.int64)


def _named(counts: Counts, classes: Sequence[str]) -> dict[str, int]:
    names = [*classes, *(str(index) for index in range(len(classes), 255)), "none"]
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}
