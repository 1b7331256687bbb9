"""Reads frames out of shard objects without Zarr: index once, one read, checksum, decompress.

No event loop or thread is involved, so that a forked worker may read too. Files stay open, and
memory is used again. Held by test to what zarr-python reads; docs/results/reading.md has the speed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from stillroom.storage_specs.buffers import lend, scratch
from stillroom.storage_specs.codecs import Encoded
from stillroom.storage_specs.compressors import decompress
from stillroom.storage_specs.errors import ArtifactError, CacheCorrupt
from stillroom.storage_specs.files.open_files import OPEN_FILES
from stillroom.storage_specs.tiles import fill, window_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.storage_specs.files.open_files import OpenFile
    from stillroom.storage_specs.layout import ArraySpec, Definition
    from stillroom.storage_specs.remote_reader import RemoteArrayReader
    from stillroom.storage_specs.stored_array import StoredArray
    from stillroom.storage_specs.tiles import Window

CRC_BYTES = 4
MISSING = 2**64 - 1
CACHED_SHARDS = 4096
VERIFY = "run `stillroom cache verify`"


def index_bytes(chunks: int) -> int:
    """Length of the index at the end of a shard object: offset and length a chunk, and a crc32c."""
    return 16 * chunks + CRC_BYTES


def parse_index(tail: bytes, chunks: int) -> NDArray[np.uint64]:
    """Offset and length of each chunk, (chunks, 2), by frame; ValueError if it is damaged."""
    if len(tail) != index_bytes(chunks):
        raise ValueError(f"cut short: the index takes {index_bytes(chunks)} bytes")
    return _checked(tail).view("<u8").reshape(chunks, 2)


def decode_chunk(
    stored: StoredArray, chunk: bytes, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Stored values of a chunk from its bytes; ValueError if they are damaged."""
    if out is None:
        out = np.empty(stored.chunk_shape, stored.dtype)
    decompress(stored.compressor, _checked(chunk), out)
    return out


class ArrayReader:
    """Frames of one stored array; any number of threads may share it.

    Its caches are plain dicts that two threads may fill twice with the same thing: a lock would
    be a fork's deadlock.
    """

    def __init__(self, root: Path, stored: StoredArray, shard_frames: int) -> None:
        self.stored = stored
        self.shard_frames = shard_frames
        self._dtype = np.dtype(stored.dtype)
        self._chunks = stored.chunks
        self._compressed = stored.compressor["name"] != "none"
        self._folder, self._rest = f"{root / stored.path}/c.", ".0" * len(stored.shape)
        self._indices: dict[int, memoryview] = {}

    def frame(
        self,
        shard: int,
        position: int,
        out: NDArray[Any] | None = None,
        window: Window | None = None,
    ) -> NDArray[Any]:
        """Stored values of the shard's frame at `position`.

        out: C-contiguous, of the stored shape and dtype: filled and returned; undefined after an
            error. Without it the result is a new array
        window: cells to read instead of all; only chunks that it touches are

        Raises:
            CacheCorrupt: the object is missing, cut short, or fails a checksum.
            CacheError: it cannot be opened.
        """
        if out is None:
            shape = self.stored.shape
            out = lend(window.shape(self.stored.axes, shape) if window else shape, self._dtype)
        try:
            self._fill(shard, position, out, window)
        except (ValueError, CacheCorrupt):
            # The object may have been repaired since it was opened and its index read.
            self.forget(shard)
            try:
                self._fill(shard, position, out, window)
            except ValueError as error:
                self.forget(shard)
                raise self._corrupt(shard, position, str(error)) from error
        return out

    def whole(self, shard: int, frames: int) -> list[NDArray[Any]]:
        """Stored values of the first `frames` frames of a shard, for small arrays; see `frame`."""
        return [self.frame(shard, position) for position in range(frames)]

    def forget(self, shard: int) -> None:
        """Look at a shard's object anew when it is next read."""
        self._indices.pop(shard, None)
        OPEN_FILES.forget(self._path(shard))

    def _fill(self, shard: int, position: int, out: NDArray[Any], window: Window | None) -> None:
        try:
            file = OPEN_FILES.get(self._path(shard))
        except FileNotFoundError as error:
            raise self._corrupt(shard, None, "its object is missing") from error
        index = self._indices.get(shard)
        if index is None:
            index = self._read_index(file, shard)
        first = position * self._chunks

        def fill_chunk(number: int, tile: NDArray[Any]) -> None:
            place = 2 * (first + number)
            offset, length = index[place], index[place + 1]
            if offset == MISSING:
                raise self._corrupt(shard, position, "its chunk was never written")
            if self._compressed:
                chunk = scratch("chunk", length)
                got = os.preadv(file.descriptor, [chunk.data], offset)
                decompress(self.stored.compressor, _checked(chunk[:got]), tile)
            else:
                _read_into(tile, file.descriptor, offset, length)

        fill(self.stored, window, out, fill_chunk)

    def _read_index(self, file: OpenFile, shard: int) -> memoryview:
        chunks = self.shard_frames * self._chunks
        length = index_bytes(chunks)
        size = os.fstat(file.descriptor).st_size
        try:
            tail = os.pread(file.descriptor, length, max(0, size - length))
            index = parse_index(tail, chunks)
            check_inside(index, size)
        except ValueError as error:
            raise self._corrupt(shard, None, f"its index: {error}") from error
        # Indexing a memoryview gives Python's integers in a third of the time that an array takes.
        numbers = index.astype(np.uint64).reshape(-1).data
        remember(self._indices, shard, numbers)
        return numbers

    def _path(self, shard: int) -> str:
        return f"{self._folder}{shard}{self._rest}"

    def _corrupt(self, shard: int, position: int | None, why: str) -> CacheCorrupt:
        where = f"shard {shard}"
        if position is not None:
            where = f"frame {shard * self.shard_frames + position} ({where})"
        return CacheCorrupt(f"{self.stored.path}: {where} is damaged: {why}; {VERIFY}")


class ArtifactReader:
    """Frames of one artifact, as they are stored and decoded; shared by threads as above.

    reader_of: makes the reader of a stored array, wherever its objects are
    """

    def __init__(
        self,
        definition: Definition,
        spec: ArraySpec,
        reader_of: Callable[[StoredArray], ArrayReader | RemoteArrayReader],
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

    def read(
        self, shard: int, position: int, frames: int, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The decoded array of a shard's frame.

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
        side = self.side(shard, position, frames)
        if self._kept_as_it_is:
            values = self.values.frame(shard, position, out)
        else:
            values = self.values.frame(shard, position, self._borrowed())
        return self._codec.decode(values, side, out)

    def window(
        self, shard: int, position: int, frames: int, rows: slice, columns: slice
    ) -> NDArray[Any]:
        """The decoded array of some rows and columns of a shard's frame; else as `read`.

        Raises:
            ConfigError: there are no such cells.
        """
        axes = self._axes
        seen = window_of(rows, columns, axes, self._shape)
        if not self._codec.cell_by_cell:  # its chunk is the frame, and so is what it decodes
            whole = self.read(shard, position, frames)
            return np.ascontiguousarray(whole[seen.of(axes)])
        side = self.side(shard, position, frames)
        out = lend(seen.shape(axes, self._shape), self._dtype)
        values = self.values.frame(shard, position, out if self._kept_as_it_is else None, seen)
        return self._codec.decode(values, side, out)

    def encoded(self, shard: int, position: int, frames: int) -> Encoded:
        """The stored values of a shard's frame, an array of its own, and what the codec needs."""
        return Encoded(self.values.frame(shard, position), self.side(shard, position, frames))

    def side(self, shard: int, position: int, frames: int) -> dict[str, NDArray[np.float32]]:
        """What the codec needs besides; small, so that all of a shard's are read at once."""
        whole = self._sides.get(shard)
        if whole is None:
            columns = {role: each.whole(shard, frames) for role, each in self._side_readers.items()}
            whole = [{role: of[i] for role, of in columns.items()} for i in range(frames)]
            remember(self._sides, shard, whole)
        return whole[position]

    def forget(self, shard: int) -> None:
        """Look at a shard's objects anew when it is next read."""
        self._sides.pop(shard, None)
        for each in (self.values, *self._side_readers.values()):
            each.forget(shard)

    def _borrowed(self) -> NDArray[Any]:
        stored = self.values.stored
        return scratch("values", stored.frame_bytes).view(stored.dtype).reshape(stored.shape)


def check_inside(index: NDArray[np.uint64], size: int) -> None:
    """Refuse an index that points beyond its object (ValueError)."""
    offsets, lengths = index[index[:, 0] != MISSING].T
    # Not by their sum, which may wrap around.
    if (offsets > size).any() or (lengths > size - np.minimum(offsets, size)).any():
        raise ValueError("it points beyond the object's end")


def _is_plain(out: NDArray[Any]) -> bool:
    return out.flags.c_contiguous and out.flags.writeable


def _read_into(tile: NDArray[Any], descriptor: int, offset: int, length: int) -> None:
    """Read a chunk that is not compressed where it is wanted; ValueError if it is damaged."""
    payload, crc = tile.reshape(-1).view(np.uint8), bytearray(CRC_BYTES)
    if length != payload.size + CRC_BYTES:
        raise ValueError(f"{length} bytes, expected {payload.size + CRC_BYTES}")
    if os.preadv(descriptor, [payload.data, crc], offset) != length:
        raise ValueError("cut short")
    _compare(payload, crc)


def _checked(content: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The content without the crc32c that ends it; ValueError where they do not agree."""
    if len(content) < CRC_BYTES:
        raise ValueError("cut short")
    # An array is a view that google_crc32c takes; a memoryview it does not.
    payload = np.frombuffer(content, np.uint8)[:-CRC_BYTES]
    _compare(payload, bytes(content[-CRC_BYTES:]))
    return payload


def _compare(payload: NDArray[np.uint8], crc: bytes | bytearray) -> None:
    if google_crc32c.value(payload) != int.from_bytes(crc, "little"):
        raise ValueError("checksum does not match")


def remember(kept: dict[int, Any], shard: int, value: Any) -> None:
    """Keep what was made of a shard; all is forgotten where that becomes too much."""
    if len(kept) >= CACHED_SHARDS:
        kept.clear()
    kept[shard] = value
