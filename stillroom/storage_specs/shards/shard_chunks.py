"""The chunks of a frame, and the object that a shard's chunks make: the bytes that Zarr writes.

A frame is compressed as it comes, by whichever thread encodes it; zarr-python would do it for a
whole shard at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from stillroom.storage_specs.compressors import compress
from stillroom.storage_specs.shards.shard_index import CRC_BYTES, MISSING
from stillroom.storage_specs.shards.zarr_arrays import order_in_shard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from stillroom.storage_specs.shards.stored_array import StoredArray


def chunks_of(stored: StoredArray, array: NDArray[Any]) -> tuple[bytes, ...]:
    """Compress one frame's array: its chunks by rows, each with its crc32c behind it."""
    whole = np.asarray(array, np.dtype(stored.dtype))
    return tuple(_with_crc(compress(stored.compressor, each)) for each in _tiles(stored, whole))


def shard_object(
    stored: StoredArray, shard_frames: int, frames: Sequence[tuple[bytes, ...]]
) -> bytes:
    """Put the chunks of a shard's frames, by ascending index, into one object."""
    grid: tuple[int, ...] = (shard_frames,)
    if stored.tile is not None:
        grid += tuple(
            -(-side // cells) for side, cells in zip(stored.map, stored.tile, strict=True)
        )
    chunks = [chunk for frame in frames for chunk in frame]
    index = np.full((int(np.prod(grid)), 2), MISSING, "<u8")
    order = [number for number in order_in_shard(grid) if number < len(chunks)]
    offset = 0
    for number in order:
        index[number] = offset, len(chunks[number])
        offset += len(chunks[number])
    return b"".join([*(chunks[number] for number in order), _with_crc(index.tobytes())])


def _tiles(stored: StoredArray, array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Cut a frame's array into its tiles by rows; those at the edge are filled up."""
    if stored.tile is None:
        yield array
        return
    (height, width), (tall, wide) = stored.map, stored.tile
    whole = np.full(stored.shard_shape, stored.fill, stored.dtype)
    whole[tuple(slice(n) for n in stored.shape)] = array
    for y in range(0, height, tall):
        for x in range(0, width, wide):
            cut = {"y": slice(y, y + tall), "x": slice(x, x + wide)}
            yield whole[tuple(cut.get(axis, slice(None)) for axis in stored.axes)]


def _with_crc(content: bytes) -> bytes:
    return content + int(google_crc32c.value(content)).to_bytes(CRC_BYTES, "little")
