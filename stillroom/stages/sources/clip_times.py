"""Which frames belong to one clip, and when they were taken."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stillroom.stages.sources.names import Names, at, natural_order
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from stillroom.stages.sources.source import Source

_JITTER = 1 / 8  # of a step, by which times of a clock may miss it
_COUNTED = 0.9  # share of nearly equal differences that are equal, where times count frames


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


def usual_step(times: Iterable[int]) -> tuple[int, int]:
    """Return the difference that is usual between successive times, and what may miss it.

    It is the most frequent one, the least of several, and nothing may miss it. Times that a clock
    gave (33, 67, 100 ms) are told by their differences, of which many are nearly the same and few
    are just the same: then it is their mean, which an eighth may miss.

    Args:
        times: ascending, none twice; fewer than two have the step 1
    """
    steps = [later - earlier for earlier, later in pairwise(times)]
    if not steps:
        return 1, 0
    counts = Counter(steps)
    usual = min(counts, key=lambda step: (-counts[step], step))
    alike = [step for step in steps if abs(step - usual) <= usual * _JITTER]
    if counts[usual] >= _COUNTED * len(alike):
        return usual, 0
    usual = (sum(alike) + len(alike) // 2) // len(alike)
    return usual, int(usual * _JITTER)


def time_near(times: Sequence[int], wanted: int, within: int) -> int | None:
    """Return the nearest of ascending times to one, the later of two; None if none is so near."""
    place = bisect_left(times, wanted)
    near = min(times[max(0, place - 1) : place + 1], key=lambda time: (abs(time - wanted), -time))
    return near if abs(near - wanted) <= within else None
