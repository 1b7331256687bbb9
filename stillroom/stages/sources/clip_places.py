"""Which clip each frame of a listing belongs to, and when in it: a few bytes a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stillroom.stages.sources.names import Names, at, natural_order
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.sources.listing import Listing


@dataclass(frozen=True, eq=False)
class ClipPlaces:
    """Clip and time of every frame of a listing, which is in their order.

    Attributes:
        names: the clips in natural order.
        clip: int32 (N,), which of them a frame belongs to; ascending.
        time: int64 (N,); ascending within a clip.
    """

    names: tuple[str, ...]
    clip: NDArray[np.int32]
    time: NDArray[np.int64]

    def position(self, index: int) -> tuple[str, int]:
        """Clip and time of a frame."""
        return self.names[self.clip[index]], int(self.time[index])

    def near(self, marked: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
        """Which frames lie within so many places of a marked one in their clip: bool (N,)."""
        here, count = np.arange(len(marked)), len(marked)
        before = np.maximum.accumulate(np.where(marked, here, -1))
        after = np.minimum.accumulate(np.where(marked, here, count)[::-1])[::-1]
        close = np.zeros(count, np.bool_)
        for other, found in ((before, before >= 0), (after, after < count)):
            same = found & (self.clip[np.where(found, other, here)] == self.clip)
            close |= same & (np.abs(here - other) <= steps)
        return close

    def take(self, places: NDArray[np.int64]) -> ClipPlaces:
        """The frames at some places, ascending."""
        return ClipPlaces(self.names, self.clip[places], self.time[places])


def by_clip_and_time(
    listing: Listing, clips: Any, times: NDArray[np.int64]
) -> tuple[Listing, ClipPlaces]:
    """The listing in natural order of its clips, by time within each.

    listing: in any order
    clips: LargeStringArray, the clip of each of its frames
    times: int64 (N,), of each of its frames

    Raises:
        ConfigError: two frames of a clip have the same time.
    """
    known = clips.dictionary_encode()
    order = np.asarray(natural_order(Names(known.dictionary))).astype(np.int64)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    clip = rank[np.asarray(known.indices)]
    rows = np.lexsort((times, clip))
    names = tuple(at(pa.array(order), known.dictionary).to_pylist())
    places = ClipPlaces(names, clip[rows], times[rows])
    ordered = listing.take(pa.array(rows))
    _refuse_equal_times(ordered, places)
    return ordered, places


def _refuse_equal_times(listing: Listing, places: ClipPlaces) -> None:
    again = (places.clip[1:] == places.clip[:-1]) & (places.time[1:] == places.time[:-1])
    doubled = np.flatnonzero(again)
    if len(doubled):
        first = int(doubled[0])
        clip, time = places.position(first)
        more = f" (and {len(doubled) - 1} more such pairs)" if len(doubled) > 1 else ""
        raise ConfigError(
            f"frames {listing.ids[first].as_py()!r} and {listing.ids[first + 1].as_py()!r} both "
            f"have time {time} in clip {clip!r}{more}; the last number of a frame's name is its "
            "time, and each time comes once in a clip: rename or remove one of each"
        )


def around_labels(
    listing: Listing, places: ClipPlaces, steps: int | None
) -> tuple[Listing, ClipPlaces]:
    """The frames within so many places of a labelled one in their clip; all of them for None."""
    if steps is None or listing.labels is None:
        return listing, places
    marked = np.asarray(pc.is_valid(listing.labels.spelled))
    kept = np.flatnonzero(places.near(marked, steps))
    return listing.take(pa.array(kept)), places.take(kept)
