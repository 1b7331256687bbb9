"""Which frames of a video are taken, and when they are shown.

Most files have a frame at equal intervals, and then its place says its moment. A phone's have more
frames in light than in the dark, a browser's as many as the network gave, and a camera's lack what
it dropped: there the moments decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.sources.video_index import VideoIndex

_ROUNDING_MS = 1.0  # between two moments of a container that counts whole milliseconds
_OFF = 0.01  # share by which a file may be faster or slower than it states
_UNEVEN = 0.25  # of a usual interval, by which whole ones may miss the moment of a frame
_LONG = 0.03  # and share of an interval that is long
_EXACT = 1e-6  # of an interval: what halves and whole ones may miss by rounding


def choose_frames(
    index: VideoIndex, fps: float | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the frames at a rate: every frame, or the nearest to each k / `fps` seconds.

    A frame is taken for the moment that it is nearest to: one from which all are farther than half
    an interval has none. Files of equal intervals, and those whose moments are unknown, are counted
    by the rate that they state.

    Args:
        fps: frames a second; None for every frame

    Returns:
        numbers of the chosen frames, ascending: int64 (M,).
        their times: int64 (M,), ascending: k or, of every frame, steps of the usual interval.
    """
    if fps is None:
        return np.arange(len(index)), _steps(index)
    if equally_spaced(index) or not ascends(index):
        numbers = numbers_by_place(index, fps)
        return numbers, np.arange(len(numbers))
    return _nearest(_moments_ms(index) * fps / 1000)


def numbers_by_place(index: VideoIndex, fps: float) -> NDArray[np.int64]:
    """Choose the frames at a rate as if all were shown at the stated one: int64 (M,)."""
    step = max(1.0, index.rate / fps)
    count = int((len(index) - 1) / step + _EXACT) + 1
    numbers: NDArray[np.int64] = (np.arange(count) * step + 0.5).astype(np.int64)
    return numbers.clip(max=len(index) - 1)


def frame_rate(index: VideoIndex) -> float:
    """Return the frames a second, by the moments where they contradict the stated; 0: unknown."""
    if equally_spaced(index) or not ascends(index):
        return index.rate
    return 1000 / _usual_ms(index)


def ascends(index: VideoIndex) -> bool:
    """Tell whether the moments are known: each frame is shown later than the one before."""
    return bool((np.diff(index.times_ms) > 0).all())


def equally_spaced(index: VideoIndex) -> bool:
    """Tell whether the frames are shown at equal intervals, those of the stated rate."""
    if len(index.times_ms) < 2:
        return True
    if not ascends(index) or not index.rate:
        return False
    since, steps = index.times_ms - index.times_ms[0], np.arange(len(index.times_ms))
    interval = since[-1] / steps[-1]
    if (np.abs(since - steps * interval) > _ROUNDING_MS).any():
        return False
    stated = 1000 / index.rate
    return bool(abs(interval - stated) <= max(_OFF * stated, _ROUNDING_MS / steps[-1]))


def uneven(index: VideoIndex) -> bool:
    """Tell whether some frames are not at whole steps of the usual interval, nearly."""
    if equally_spaced(index) or not ascends(index):
        return False
    intervals = np.diff(index.times_ms)
    whole = np.diff(_steps(index))[: len(intervals)] * _usual_ms(index)
    allowed = _UNEVEN * _usual_ms(index) + _LONG * intervals
    return bool((np.abs(intervals - whole) > allowed).any())


def _usual_ms(index: VideoIndex) -> float:
    """Return the interval between frames where none is dropped and light is good."""
    intervals = np.diff(index.times_ms)
    return float(intervals[intervals <= 1.5 * np.quantile(intervals, 0.25)].mean())


def _steps(index: VideoIndex) -> NDArray[np.int64]:
    """Count the usual intervals up to each frame, one or more from each to the next: int64 (N,)."""
    steps = np.ones(len(index), np.int64)
    steps[0] = 0
    if ascends(index) and not equally_spaced(index):
        intervals = np.diff(index.times_ms)
        whole = np.floor(intervals / _usual_ms(index) + 0.5 + _EXACT)
        steps[1 : len(intervals) + 1] = whole.clip(min=1)
    return np.cumsum(steps)


def _moments_ms(index: VideoIndex) -> NDArray[np.float64]:
    """Return when each frame is shown after the first; those lost fill what is left of the file."""
    since = index.times_ms - index.times_ms[0]
    stated = len(index) * 1000 / index.rate if index.rate else 0.0
    interval = (stated - since[-1]) / (index.lost + 1)
    if interval <= 0:
        interval = _usual_ms(index)
    return np.concatenate([since, since[-1] + interval * np.arange(1, index.lost + 1)])


def _nearest(moments: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose for each whole moment the nearest of the frames that round to it, the later of two."""
    whole = np.floor(moments + 0.5 + _EXACT).astype(np.int64)
    distance = np.abs(moments - whole).round(6)
    order = np.lexsort((-moments, distance, whole))
    times, first = np.unique(whole[order], return_index=True)
    seen = times <= moments[-1] + _EXACT
    return order[first][seen], times[seen]
