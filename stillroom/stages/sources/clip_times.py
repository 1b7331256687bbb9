"""Which frames belong to one clip, and when they were taken."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stillroom.stages.sources.names import Names, at, natural_order
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from stillroom.stages.sources.source import Source


@dataclass(frozen=True, eq=False)
class ClipTimes:
    """Clip and time of frames that are in the order of both.

    Attributes:
        names: the clips in natural order.
        clip: int32 (N,), which of them a frame belongs to; ascending.
        time: int64 (N,); ascending within a clip.
    """

    names: tuple[str, ...]
    clip: NDArray[np.int32]
    time: NDArray[np.int64]

    def position(self, index: int) -> tuple[str, int]:
        """Return clip and time of a frame."""
        return self.names[self.clip[index]], int(self.time[index])

    def take(self, indices: NDArray[np.int64]) -> ClipTimes:
        """Return the frames at some indices, which ascend."""
        return ClipTimes(self.names, self.clip[indices], self.time[indices])

    def repeated(self) -> NDArray[np.int64]:
        """Return the indices of frames whose next one has the same clip and time."""
        same_clip = self.clip[1:] == self.clip[:-1]
        return np.flatnonzero(same_clip & (self.time[1:] == self.time[:-1]))

    def near(self, marked: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
        """Tell which frames lie within so many frames of a marked one in their clip: bool (N,)."""
        here, count = np.arange(len(marked)), len(marked)
        before = np.maximum.accumulate(np.where(marked, here, -1))
        after = np.minimum.accumulate(np.where(marked, here, count)[::-1])[::-1]
        close = np.zeros(count, np.bool_)
        for other, found in ((before, before >= 0), (after, after < count)):
            same = found & (self.clip[np.where(found, other, here)] == self.clip)
            close |= same & (np.abs(here - other) <= steps)
        return close


def order_by_clip(clips: Any, times: NDArray[np.int64]) -> tuple[NDArray[np.int64], ClipTimes]:
    """Return the indices that put frames in order of clip and time, and the frames so ordered.

    Args:
        clips: LargeStringArray, the clip of each frame
        times: int64 (N,), of each frame
    """
    known = clips.dictionary_encode()
    order = np.asarray(natural_order(Names(known.dictionary))).astype(np.int64)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    clip = rank[np.asarray(known.indices)]
    rows = np.lexsort((times, clip))
    names = tuple(at(pa.array(order), known.dictionary).to_pylist())
    return rows, ClipTimes(names, clip[rows], times[rows])


def times_of_clips(source: Source) -> dict[str, dict[int, int]]:
    """Return the frames' indices by their times, ascending, of every clip in the source's order.

    Raises:
        ConfigError: two frames of a clip have one time.
    """
    clips: dict[str, dict[int, int]] = {}
    for index in range(len(source)):
        clip, time = source.position(index)
        if clip is None or time is None:
            continue
        times = clips.setdefault(clip, {})
        if time in times:
            raise ConfigError(
                f"frames {source.frame_ids[times[time]]!r} and {source.frame_ids[index]!r} are "
                f"both at time {time} of clip {clip!r}; rename or remove one"
            )
        times[time] = index
    return {clip: dict(sorted(times.items())) for clip, times in clips.items()}


def usual_step(times: Iterable[int]) -> int:
    """Return the most frequent difference between successive times, the least of several.

    Args:
        times: ascending, none twice; 1 for fewer than two
    """
    steps = Counter(later - earlier for earlier, later in pairwise(times))
    most = max(steps.values(), default=0)
    return min((step for step, count in steps.items() if count == most), default=1)
