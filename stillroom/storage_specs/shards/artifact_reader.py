"""Decoded frames of one artifact, and the side arrays that its codec needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.buffers import lend, remember, scratch
from stillroom.storage_specs.codecs.codec import Encoded
from stillroom.storage_specs.errors import ArtifactError
from stillroom.storage_specs.shards.tiles import window_of
from stillroom.storage_specs.spans import span

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from stillroom.storage_specs.codecs.codec import Side
    from stillroom.storage_specs.layout import ArraySpec, Definition
    from stillroom.storage_specs.shards.array_reader import ArrayReader
    from stillroom.storage_specs.shards.stored_array import StoredArray
    from stillroom.storage_specs.shards.tiles import Window


class ArtifactReader:
    """Frames of one artifact, as they are stored and decoded; any number of threads may share it.

    Args:
        reader_of: makes the reader of a stored array
    """

    def __init__(
        self,
        definition: Definition,
        spec: ArraySpec,
        reader_of: Callable[[StoredArray], ArrayReader],
    ) -> None:
        stored, *sides = definition.stored(spec)
        self.values = reader_of(stored)
        self._codec = spec.codec
        self._shape = spec.shape
        self._axes = spec.kind.axes
        self._dtype = np.dtype(spec.kind.dtype)
        self._kept_as_it_is = self._dtype == np.dtype(stored.dtype)
        self._side_readers = {side.attributes["role"]: reader_of(side) for side in sides}
        self._sides: dict[int, list[dict[str, NDArray[np.float32]]]] = {}
        self._forgotten: dict[int, int] = {}  # how often

    def read(
        self, shard: int, position: int, frames: int, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The decoded array of a shard's frame.

        Args:
            frames: number of frames of this shard
            out: C-contiguous, of the decoded shape and dtype: filled and returned

        Raises:
            ArtifactError: `out` is of another shape, dtype or order.
            CacheCorrupt, CacheError: as for `ArrayReader.frame`.
        """
        if out is None:
            out = lend(self._shape, self._dtype)
        elif out.shape != self._shape or out.dtype != self._dtype or not _is_plain(out):
            raise ArtifactError(
                f"out: expected a C-contiguous, writable {self._dtype} {self._shape}, "
                f"got {out.dtype} {out.shape}"
            )
        into = out if self._kept_as_it_is else self._borrowed()
        found = self._together(shard, position, frames, into, None)
        with span("decode"):
            return self._codec.decode(found.values, found.side, out)

    def window(
        self, shard: int, position: int, frames: int, rows: slice, columns: slice
    ) -> NDArray[Any]:
        """The decoded array of some rows and columns of a shard's frame; else as `read`.

        Raises:
            ConfigError: there are no such cells.
        """
        axes = self._axes
        seen = window_of(rows, columns, axes, self._shape)
        if not self._codec.tileable:  # its chunk is the frame, and so is what it decodes
            whole = self.read(shard, position, frames)
            return np.ascontiguousarray(whole[seen.of(axes)])
        out = lend(seen.shape(axes, self._shape), self._dtype)
        into = out if self._kept_as_it_is else None
        found = self._together(shard, position, frames, into, seen)
        with span("decode"):
            return self._codec.decode(found.values, found.side, out)

    def steps(
        self,
        shard: int,
        position: int,
        frames: int,
        rows: slice,
        columns: slice,
        out: NDArray[Any],
    ) -> Side:
        """Fill `out` with the steps of some rows and columns; return what the codec needs besides.

        Args:
            out: C-contiguous, of the codec's `steps` and the window's shape
        """
        window = window_of(rows, columns, self._axes, self._shape)
        if self._codec.tileable:
            return self._together(shard, position, frames, out, window).side
        found = self._together(shard, position, frames, self._borrowed(), None)
        with span("decode"):
            np.copyto(out, self._codec.undo_prediction(found.values)[window.of(self._axes)])
        return found.side

    def encoded(self, shard: int, position: int, frames: int) -> Encoded:
        """The stored values of a shard's frame, an array of its own, and what the codec needs."""
        return self._together(shard, position, frames, None, None)

    def _together(
        self,
        shard: int,
        position: int,
        frames: int,
        into: NDArray[Any] | None,
        window: Window | None,
    ) -> Encoded:
        """Return values and side of a frame that were committed together."""
        while True:
            side = self.side(shard, position, frames)
            values = self.values.frame(shard, position, into, window)
            # Reading the values forgets the side where the shard has been built again meanwhile.
            kept = self._sides.get(shard)
            if kept is not None and kept[position] is side:
                return Encoded(values, side)

    def side(self, shard: int, position: int, frames: int) -> dict[str, NDArray[np.float32]]:
        """What the codec needs besides; small, so that all of a shard's are read at once."""
        while (whole := self._sides.get(shard)) is None:
            before = self._forgotten.get(shard)
            columns = {role: each.whole(shard, frames) for role, each in self._side_readers.items()}
            found = [{role: of[i] for role, of in columns.items()} for i in range(frames)]
            remember(self._sides, shard, found)
            if self._forgotten.get(shard) != before:  # built again while it was read
                self._sides.pop(shard, None)
        return whole[position]

    def forget(self, shard: int) -> None:
        """Look at a shard's objects anew when it is next read."""
        self._forgotten[shard] = self._forgotten.get(shard, 0) + 1
        self._sides.pop(shard, None)
        for each in (self.values, *self._side_readers.values()):
            each.forget(shard)

    def _borrowed(self) -> NDArray[Any]:
        stored = self.values.stored
        return scratch("values", stored.frame_bytes).view(stored.dtype).reshape(stored.shape)


def _is_plain(out: NDArray[Any]) -> bool:
    return out.flags.c_contiguous and out.flags.writeable
