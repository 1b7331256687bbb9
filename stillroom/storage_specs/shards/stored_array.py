"""One Zarr array of a set, and the chunks that a frame of it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class StoredArray:
    """One Zarr array of a set: an artifact's values, or a side array of its codec.

    Attributes:
        path: from the cache's root, such as "camvid/fpn/logits_scale"
        shape: of one frame; the array's first axis is the frame's index
        dtype: as NumPy writes it, little-endian
        tile: rows and columns of a tile, where a frame is more than one chunk
    """

    path: str
    artifact: str
    shape: tuple[int, ...]
    dtype: str
    fill: int
    compressor: dict[str, Any]
    axes: tuple[str, ...]
    attributes: dict[str, Any]
    tile: tuple[int, int] | None = None

    @property
    def map(self) -> tuple[int, int]:
        """Rows and columns of a frame that has them."""
        return self.shape[self.axes.index("y")], self.shape[self.axes.index("x")]

    @property
    def tile_or_map(self) -> tuple[int, int]:
        """Rows and columns of a chunk."""
        return self.map if self.tile is None else self.tile

    @property
    def chunks(self) -> int:
        """Chunks of a frame."""
        if self.tile is None:
            return 1
        (height, width), (rows, columns) = self.map, self.tile
        return -(-height // rows) * -(-width // columns)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Of one chunk of a frame; tiles at the edge are whole, filled up with `fill`."""
        return self._with_map(*self.tile_or_map) if self.tile else self.shape

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Of a frame in whole chunks."""
        if self.tile is None:
            return self.shape
        (height, width), (rows, columns) = self.map, self.tile
        return self._with_map(-(-height // rows) * rows, -(-width // columns) * columns)

    def _with_map(self, height: int, width: int) -> tuple[int, ...]:
        sides = {"y": height, "x": width}
        return tuple(sides.get(axis, n) for axis, n in zip(self.axes, self.shape, strict=True))

    def object_path(self, shard: int) -> str:
        """Path of a shard's object from the cache's root."""
        return f"{self.path}/c.{shard}" + ".0" * len(self.shape)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame, not compressed."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))
