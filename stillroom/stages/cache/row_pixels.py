"""The pixels of rows that were written, counted for the report of their shard."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.evaluate.value_range import Range, merged
from stillroom.storage_specs.artifacts import ARTIFACTS, FRAMES, IGNORE, LABELS, PSEUDO_LABEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class RowPixels:
    """The pixels of rows that were written, as a `ShardReport` counts them."""

    labels: Counter[int] = field(default_factory=Counter)
    photo: int = 0
    sure: int = 0
    ranges: dict[str, Range] = field(default_factory=dict)

    @classmethod
    def of(cls, arrays: Arrays, loaded: Any) -> RowPixels:
        """Count those of one row; `loaded` is the frame, or pair of frames, that it was made of."""
        labels = _class_pixels(arrays[LABELS]) if LABELS in arrays else Counter[int]()
        if FRAMES in arrays:
            return cls(labels, ranges=_ranges(arrays, loaded.valid))
        if PSEUDO_LABEL not in arrays:
            return cls(labels)
        height, width = loaded.valid
        label = arrays[PSEUDO_LABEL][:height, :width]
        return cls(labels, height * width, int(np.count_nonzero(label != IGNORE)))

    def __add__(self, other: RowPixels) -> RowPixels:
        labels = self.labels + other.labels
        ranges = merged(self.ranges, other.ranges)
        return RowPixels(labels, self.photo + other.photo, self.sure + other.sure, ranges)


def _ranges(arrays: Arrays, valid: tuple[int, int]) -> dict[str, Range]:
    """Return the range of each target that has one, of the pixels that show the frame."""
    kinds = {name: ARTIFACTS[name].statistics for name in arrays}
    return {
        name: Range.of(arrays[name][: valid[0], : valid[1]])
        for name, kind in kinds.items()
        if kind == "range"
    }


def _class_pixels(label: NDArray[np.generic]) -> Counter[int]:
    """Count the pixels of each class in a label map of uint8; those to be ignored do not count."""
    counts = np.bincount(label.ravel().astype(np.intp), minlength=IGNORE)[:IGNORE]
    return Counter({int(index): int(counts[index]) for index in np.flatnonzero(counts)})
