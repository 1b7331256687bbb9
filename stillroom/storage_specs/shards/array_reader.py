"""Reads frames out of shard objects without Zarr: index once, one read, checksum, decompress.

No event loop or thread is involved, so that a forked worker may read too. Files stay open, and
memory is used again. Held by test to what zarr-python reads; docs/results/reading.md has the speed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.buffers import lend, remember
from stillroom.storage_specs.compressors import decompress
from stillroom.storage_specs.errors import CacheCorrupt
from stillroom.storage_specs.files.ranged_file import HeldBytes
from stillroom.storage_specs.shards.shard_index import (
    CRC_BYTES,
    MISSING,
    check_crc,
    index_bytes,
    parse_index,
    without_crc,
)
from stillroom.storage_specs.shards.tiles import fill
from stillroom.storage_specs.spans import span

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from numpy.typing import NDArray

    from stillroom.storage_specs.files.ranged_file import RangedFile
    from stillroom.storage_specs.shards.shard_objects import ShardObjects
    from stillroom.storage_specs.shards.stored_array import StoredArray
    from stillroom.storage_specs.shards.tiles import Window


class ArrayReader:
    """Frames of one stored array; any number of threads may share it.

    Its cache is a plain dict that two threads may fill twice with the same thing: a lock would be
    a fork's deadlock.

    Args:
        objects: the array's shard objects, wherever they are
        check: called with shard, file and size of every object that is opened; raises where it
            is not the one that was committed
    """

    def __init__(
        self,
        objects: ShardObjects,
        shard_frames: int,
        check: Callable[[int, RangedFile, int], None],
    ) -> None:
        self.objects = objects
        self.stored = objects.stored
        self.shard_frames = shard_frames
        self._dtype = np.dtype(self.stored.dtype)
        self._index_bytes = index_bytes(shard_frames * self.stored.chunks)
        self._check = check
        self._indices: dict[int, tuple[Hashable, memoryview]] = {}  # with the file's version

    def frame(
        self,
        shard: int,
        position: int,
        out: NDArray[Any] | None = None,
        window: Window | None = None,
    ) -> NDArray[Any]:
        """Return the stored values of the shard's frame at `position`.

        Args:
            out: C-contiguous, of the stored shape and dtype: filled and returned; undefined after
                an error. Without it the result is a new array
            window: rows and columns to read instead of all; only chunks that it touches are read

        Raises:
            CacheCorrupt: the object is missing, cut short, or fails a checksum.
            CacheError: it cannot be opened.
            StoreUnavailable: an object store refuses or does not answer.
        """
        if out is None:
            shape = self.stored.shape
            out = lend(window.shape(self.stored.axes, shape) if window else shape, self._dtype)
        try:
            self._read(shard, position, out, window)
        except CacheCorrupt:
            # The object may have been repaired since its index was read, or a copy be damaged.
            self.forget(shard)
            try:
                self._read(shard, position, out, window)
            except CacheCorrupt:
                self.forget(shard)
                raise
        return out

    def whole(self, shard: int, frames: int) -> list[NDArray[Any]]:
        """Return the stored values of the first `frames` frames of a shard, by a single read.

        For small arrays that are not compressed; raises what `frame` does.
        """
        most = self.shard_frames * (self.stored.frame_bytes + CRC_BYTES) + self._index_bytes
        made: list[NDArray[Any]] = []
        try:
            file = self.objects.open(shard)
            content = HeldBytes(file.read(0, most))
            self._check(shard, file, content.size if file.size is None else file.size)
            index = self._index_in(content, shard)
            for position in range(frames):
                made.append(np.empty(self.stored.shape, self._dtype))
                read_frame(content, self.stored, index, position, made[-1])
        except FileNotFoundError as error:
            raise self._corrupt(shard, None, "its object is missing") from error
        except ValueError as error:
            raise self._corrupt(shard, len(made) - 1, str(error)) from error
        return made

    def forget(self, shard: int) -> None:
        """Read a shard's index anew when one of its frames is next read."""
        self._indices.pop(shard, None)
        self.objects.forget(shard)

    def _read(self, shard: int, position: int, out: NDArray[Any], window: Window | None) -> None:
        try:
            file = self.objects.open(shard)
            version, index = self._indices.get(shard, (None, None))
            if index is None or version != file.version:  # not read yet, or another file by now
                index = self._index_in(file, shard)
                self._check(shard, file, self._size(file, index))
                remember(self._indices, shard, (file.version, index))
            read_frame(file, self.stored, index, position, out, window)
        except FileNotFoundError as error:
            raise self._corrupt(shard, None, "its object is missing") from error
        except ValueError as error:
            raise self._corrupt(shard, position, str(error)) from error

    def _size(self, file: RangedFile, index: memoryview) -> int:
        """The size of an object; of one that does not tell, that of its chunks and its index."""
        if file.size is not None:
            return file.size
        pairs = np.asarray(index).reshape(-1, 2)
        ends = pairs.sum(axis=1)[pairs[:, 0] != MISSING]
        return int(ends.max(initial=0)) + self._index_bytes

    def _index_in(self, file: RangedFile, shard: int) -> memoryview:
        try:
            tail = file.read(-self._index_bytes, self._index_bytes)
            index = parse_index(tail, self.shard_frames * self.stored.chunks, file.size)
        except ValueError as error:
            raise self._corrupt(shard, None, f"its index: {error}") from error
        # Indexing a memoryview gives Python's integers in a third of the time that an array takes.
        return index.reshape(-1).data

    def _corrupt(self, shard: int, position: int | None, why: str) -> CacheCorrupt:
        where = f"shard {shard}"
        if position is not None:
            where = f"frame {shard * self.shard_frames + position} ({where})"
        return CacheCorrupt(
            f"{self.objects.name}: {where} is damaged: {why}; run `stillroom cache verify`"
        )


def read_frame(
    file: RangedFile,
    stored: StoredArray,
    index: memoryview,
    position: int,
    out: NDArray[Any],
    window: Window | None = None,
) -> None:
    """Fill `out` with the stored values of a frame, or of a window of it.

    Args:
        file: the shard's object
        index: offset and length of each chunk of the shard, one behind the other

    Raises:
        ValueError: a chunk is missing, cut short, or fails its checksum.
    """
    first = position * stored.chunks
    compressed = stored.compressor["name"] != "none"

    def fill_chunk(number: int, tile: NDArray[Any]) -> None:
        place = 2 * (first + number)
        offset, length = index[place], index[place + 1]
        if offset == MISSING:
            raise ValueError("its chunk was never written")
        if compressed:
            with span("read"):
                chunk = file.read(offset, length)
            with span("decode"):
                decompress(stored.compressor, without_crc(chunk), tile)
        else:
            with span("read"):
                _read_into(tile, file, offset, length)

    fill(stored, window, out, fill_chunk)


def _read_into(tile: NDArray[Any], file: RangedFile, offset: int, length: int) -> None:
    """Read a chunk that is not compressed where it is wanted; ValueError if it is damaged."""
    payload, crc = tile.reshape(-1).view(np.uint8), bytearray(CRC_BYTES)
    if length != payload.size + CRC_BYTES:
        raise ValueError(f"{length} bytes, expected {payload.size + CRC_BYTES}")
    if file.read_into([payload.data, crc], offset) != length:
        raise ValueError("cut short")
    check_crc(payload, crc)
