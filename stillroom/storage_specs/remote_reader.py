"""Reads frames of shard objects in an object store: index once, then one ranged read a frame.

With a folder for local copies, whole objects are fetched once and read there by the local reader.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.buffers import lend
from stillroom.storage_specs.errors import CacheCorrupt, CacheError
from stillroom.storage_specs.files.local_copies import LocalCopies
from stillroom.storage_specs.shard_reader import (
    MISSING,
    ArrayReader,
    decode_chunk,
    index_bytes,
    parse_index,
    remember,
)
from stillroom.storage_specs.tiles import fill

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.storage_specs.files.object_store import ObjectStore
    from stillroom.storage_specs.manifest import ObjectEntry
    from stillroom.storage_specs.stored_array import StoredArray
    from stillroom.storage_specs.tiles import Window

USED_EVERY_SECONDS = 30.0  # how often a copy that is being read is marked as used
VERIFY = "run `stillroom cache verify`"


class CopyReader(ArrayReader):
    """Frames of one shard object that lies, whole, under another name.

    path: of the copy
    """

    def __init__(self, path: Path, stored: StoredArray, shard_frames: int) -> None:
        super().__init__(path.parent, stored, shard_frames)
        self.path = path

    def _path(self, shard: int) -> str:
        return str(self.path)


class RemoteArrayReader:
    """Frames of one stored array in an object store; any number of threads may share it.

    entry: size and sha256 of a shard's object, as the manifest part has them
    """

    def __init__(
        self,
        objects: ObjectStore,
        stored: StoredArray,
        shard_frames: int,
        entry: Callable[[int], ObjectEntry | None],
    ) -> None:
        self.objects = objects
        self.stored = stored
        self.shard_frames = shard_frames
        self._entry = entry
        self._copies = LocalCopies.from_environment()
        self._local: dict[int, tuple[CopyReader, float]] = {}  # and when it was marked as used
        self._index_of: dict[int, NDArray[Any]] = {}

    def frame(
        self,
        shard: int,
        position: int,
        out: NDArray[Any] | None = None,
        window: Window | None = None,
    ) -> NDArray[Any]:
        """As `ArrayReader.frame`.

        Raises:
            StoreUnavailable: the store refuses or does not answer.
        """
        local = self._copy_of(shard)
        if local is not None and self._copies is not None:
            try:
                return local.frame(shard, position, out, window)
            except CacheError:  # evicted meanwhile, or damaged: the store has the truth
                self._local.pop(shard, None)
                self._copies.discard(local.path)
        known = shard in self._index_of
        try:
            return self._ranged(shard, position, out, window)
        except CacheCorrupt:
            if not known:
                raise
        # The object may have been replaced since its index was read.
        self._index_of.pop(shard, None)
        return self._ranged(shard, position, out, window)

    def whole(self, shard: int, frames: int) -> list[NDArray[Any]]:
        """As `ArrayReader.whole`: the object comes by one request."""
        content = self._read(shard, None, 0)
        index = self._parsed(shard, content[-index_bytes(self.shard_frames) :])  # never in tiles
        made = []
        for position in range(frames):
            offset, length = self._place(index, shard, position)
            made.append(self._decoded(shard, position, content[offset : offset + length], None))
        return made

    def forget(self, shard: int) -> None:
        """Look at a shard's object anew when it is next read."""
        self._index_of.pop(shard, None)
        self._local.pop(shard, None)

    def _ranged(
        self, shard: int, position: int, out: NDArray[Any] | None, window: Window | None
    ) -> NDArray[Any]:
        index = self._index_of.get(shard)
        if index is None:
            length = index_bytes(self.shard_frames * self.stored.chunks)
            index = self._parsed(shard, self._read(shard, -length, length))
            remember(self._index_of, shard, index)
        if out is None:
            shape = self.stored.shape
            out = lend(
                window.shape(self.stored.axes, shape) if window else shape,
                np.dtype(self.stored.dtype),
            )

        def fill_chunk(number: int, tile: NDArray[Any]) -> None:
            offset, length = self._place(index, shard, position, number)
            self._decoded(shard, position, self._read(shard, offset, length), tile)

        fill(self.stored, window, out, fill_chunk)
        return out

    def _read(self, shard: int, start: int | None, length: int) -> bytes:
        path = self.stored.object_path(shard)
        try:
            if start is None:
                return self.objects.read(path)
            return self.objects.read_range(path, start, length)
        except FileNotFoundError as error:
            raise self._damaged(shard, None, "its object is missing") from error

    def _parsed(self, shard: int, tail: bytes) -> NDArray[Any]:
        try:
            return parse_index(tail, self.shard_frames * self.stored.chunks)
        except ValueError as error:
            raise self._damaged(shard, None, f"its index: {error}") from error

    def _place(
        self, index: NDArray[Any], shard: int, position: int, chunk: int = 0
    ) -> tuple[int, int]:
        offset, length = (int(each) for each in index[position * self.stored.chunks + chunk])
        if offset == MISSING:
            raise self._damaged(shard, position, "its chunk was never written")
        return offset, length

    def _decoded(
        self, shard: int, position: int, chunk: bytes, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        try:
            return decode_chunk(self.stored, chunk, out)
        except ValueError as error:
            raise self._damaged(shard, position, str(error)) from error

    def _damaged(self, shard: int, position: int | None, why: str) -> CacheCorrupt:
        where = f"shard {shard}"
        if position is not None:
            where = f"frame {shard * self.shard_frames + position} ({where})"
        path = self.objects.where(self.stored.path)
        return CacheCorrupt(f"{path}: {where} is damaged: {why}; {VERIFY}")

    def _copy_of(self, shard: int) -> CopyReader | None:
        """A reader of the shard's local copy, fetched if need be; None where there can be none."""
        copies, entry, now = self._copies, self._entry(shard), time.monotonic()
        if copies is None or entry is None:
            return None
        reader, used = self._local.get(shard, (None, 0.0))
        if reader is None or reader.path != copies.path(entry):  # none yet, or of an older commit
            reader = CopyReader(copies.path(entry), self.stored, self.shard_frames)
        elif now - used < USED_EVERY_SECONDS:
            return reader
        if not copies.hold(entry, lambda: self._read(shard, None, 0)):
            self._local.pop(shard, None)
            return None
        remember(self._local, shard, (reader, now))
        return reader
