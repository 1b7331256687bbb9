"""Which frames of a source belong to one clip, and when they were taken."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stillroom.stages.sources.source import Source


def times_of_clips(source: Source) -> dict[str, dict[int, int]]:
    """Of every clip, in the order of the source, the frames' indices by their times, ascending.

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
    """The most frequent difference between successive times of a clip, the least of several.

    times: ascending, none twice; 1 for fewer than two
    """
    steps = Counter(later - earlier for earlier, later in pairwise(times))
    most = max(steps.values(), default=0)
    return min((step for step, count in steps.items() if count == most), default=1)
