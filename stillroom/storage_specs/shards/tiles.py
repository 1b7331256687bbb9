"""Frames cut into tiles, so that a crop reads a window: which tiles, and how they come together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.buffers import scratch
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from stillroom.storage_specs.shards.stored_array import StoredArray

LARGE_FRAME_BYTES = 4 << 20  # stored, not compressed; above it a frame is cut
GOOD_TILE_BYTES = 1 << 20
SIDES = (128, 96, 64)  # cells, the largest first that keeps a tile good


@dataclass(frozen=True)
class Window:
    """Cells of a map: rows top..bottom-1, columns left..right-1."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, axes: tuple[str, ...]) -> tuple[slice, ...]:
        """What selects it from an array with these axes."""
        chosen = {"y": slice(self.top, self.bottom), "x": slice(self.left, self.right)}
        return tuple(chosen.get(axis, slice(None)) for axis in axes)

    def shape(self, axes: tuple[str, ...], whole: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what it selects."""
        sides = {"y": self.bottom - self.top, "x": self.right - self.left}
        return tuple(sides.get(axis, n) for axis, n in zip(axes, whole, strict=True))


def window_of(rows: slice, columns: slice, axes: tuple[str, ...], shape: tuple[int, ...]) -> Window:
    """The window that two slices name.

    Raises:
        ConfigError: it is empty, outside of the map, or skips cells.
    """
    height, width = shape[axes.index("y")], shape[axes.index("x")]
    top, bottom = rows.start or 0, height if rows.stop is None else rows.stop
    left, right = columns.start or 0, width if columns.stop is None else columns.stop
    steps = {rows.step, columns.step} <= {None, 1}
    if not (steps and 0 <= top < bottom <= height and 0 <= left < right <= width):
        raise ConfigError(
            f"window {rows}, {columns}: expected cells within {height}x{width}, at least one"
        )
    return Window(top, bottom, left, right)


def fill(
    stored: StoredArray,
    window: Window | None,
    out: NDArray[Any],
    fill_chunk: Callable[[int, NDArray[Any]], None],
) -> None:
    """Put a frame, or a window of it, together from its chunks.

    Args:
        window: None for the whole frame
        out: of the window's shape, filled
        fill_chunk: fills an array of `stored.chunk_shape` from the chunk of that number of the
            frame
    """
    if window is None and stored.tile is None:
        fill_chunk(0, out)
        return
    axes, (tall, wide) = stored.axes, stored.tile_or_map
    if window is None:
        window = Window(0, stored.map[0], 0, stored.map[1])
    across = -(-stored.map[1] // wide)
    size = int(np.prod(stored.chunk_shape)) * np.dtype(stored.dtype).itemsize
    tile = scratch("tile", size).view(stored.dtype).reshape(stored.chunk_shape)
    for row in range(window.top // tall, -(-window.bottom // tall)):
        for column in range(window.left // wide, -(-window.right // wide)):
            fill_chunk(row * across + column, tile)
            y, x = row * tall, column * wide
            top, bottom = max(window.top, y), min(window.bottom, y + tall)
            left, right = max(window.left, x), min(window.right, x + wide)
            inside = Window(top - y, bottom - y, left - x, right - x)
            there = Window(
                top - window.top, bottom - window.top, left - window.left, right - window.left
            )
            out[there.of(axes)] = tile[inside.of(axes)]


def automatic_tile(
    shape: tuple[int, ...], axes: tuple[str, ...], itemsize: int
) -> tuple[int, int] | None:
    """Rows and columns of a tile for a stored frame of this shape; None where it is small."""
    height, width = shape[axes.index("y")], shape[axes.index("x")]
    cell = int(np.prod(shape, dtype=np.int64)) // (height * width) * itemsize
    if cell * height * width <= LARGE_FRAME_BYTES:
        return None
    side = next((side for side in SIDES if side * side * cell <= GOOD_TILE_BYTES), SIDES[-1])
    return fitted_tile((side, side), shape, axes)


def fitted_tile(
    tile: tuple[int, int], shape: tuple[int, ...], axes: tuple[str, ...]
) -> tuple[int, int] | None:
    """The tile, no larger than the map; None where it would be the whole map."""
    height, width = shape[axes.index("y")], shape[axes.index("x")]
    tall, wide = min(tile[0], height), min(tile[1], width)
    return None if (tall, wide) == (height, width) else (tall, wide)
