"""Sampling along rows and columns, in the order in which the values lie in memory.

The sampled value between two positions is that of torch.lerp, to the last bit: one product and one
sum, rounded once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from stillroom.storage_specs.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

ONE, HALF = np.float32(1), np.float32(0.5)
NO_WEIGHTS = np.zeros(0, np.float32)
SNAP = 1e-9  # positions; a strided position is a quotient and may miss its integer by rounding


Line = tuple[float, float, int, bool, int]
"""Sampled points along an axis: start, extent, outputs, whether mirrored, output stride."""


class Axis(NamedTuple):
    """What the outputs along one axis are sampled from.

    Attributes:
        low: (n,) int64, the position in the array at or before each sampled point
        weight: (n,) float32, of the position after it
        whole: every point falls on a position, so that all weights are 0
        begin, end: the outputs begin..end-1 are sampled: of an image those whose point lies on it
    """

    low: NDArray[np.int64]
    weight: NDArray[np.float32]
    whole: bool
    begin: int
    end: int


def linear_axis(line: Line, stride: int, length: int, first: int) -> Axis:
    """Return an axis that is sampled between positions, clamped to the first and the last.

    Args:
        stride, length: of the grid: canvas pixels a position, positions
        first: position of the grid that the array begins with
    """
    outputs = math.ceil(line[2] / line[4])
    low, weight = np.empty(outputs, np.int64), np.empty(outputs, np.float32)
    return Axis(low, weight, *_fill_linear(line, stride, length, first, low, weight))


def nearest_axis(line: Line, length: int, first: int) -> Axis:
    """Return an axis of pixels of which the one under the point is taken; else `linear_axis`."""
    low = np.empty(math.ceil(line[2] / line[4]), np.int64)
    return Axis(low, NO_WEIGHTS, True, *_fill_nearest(line, length, first, low))


def _emit_fused(context: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit a * b + c, rounded once."""
    signature = types.float32(types.float32, types.float32, types.float32)
    return signature, lambda context, builder, signature, values: builder.fma(*values)


_fused: Any = intrinsic(_emit_fused)


@compiled
def _between(one: np.float32, other: np.float32, weight: np.float32) -> Any:
    """Return the value between two neighbours; from the nearer one, so that both ends are exact."""
    if weight < HALF:
        return _fused(weight, other - one, one)
    return _fused(weight - ONE, other - one, other)


@compiled
def _point(i: int, line: Line) -> Any:
    """Return where the centre of output `i` lies on the canvas; multiplied first, rounded once."""
    start, extent, outputs, mirrored, out_stride = line
    centre = (0.5 + i) * out_stride
    if mirrored:
        centre = outputs - centre
    return start + centre * extent / outputs


@compiled
def _fill_linear(
    line: Line,
    stride: int,
    length: int,
    first: int,
    low: NDArray[np.int64],
    weight: NDArray[np.float32],
) -> tuple[bool, int, int]:
    """Fill `low` and `weight`; return `whole`, `begin` and `end`."""
    whole, begin, end = True, low.size, 0
    for i in range(low.size):
        point = _point(i, line)
        if 0 <= point < length * stride:
            begin, end = min(begin, i), i + 1
        position = min(max(point / stride - 0.5, 0.0), length - 1.0)
        nearest = np.floor(position + 0.5)
        if abs(position - nearest) < SNAP:
            position = nearest
        below = np.floor(position)
        low[i] = int(below) - first
        weight[i] = np.float32(position - below)
        whole = whole and position == below
    return whole, min(begin, end), end


@compiled
def _fill_nearest(line: Line, length: int, first: int, low: NDArray[np.int64]) -> tuple[int, int]:
    """Fill `low`; return `begin` and `end`."""
    begin, end = low.size, 0
    for i in range(low.size):
        point = _point(i, line)
        if 0 <= point < length:
            begin, end = min(begin, i), i + 1
        low[i] = int(min(max(np.floor(point), 0.0), length - 1.0)) - first
    return min(begin, end), end


@compiled
def _blend_rows(
    above: NDArray[Any], below: NDArray[Any], weight: np.float32, out: NDArray[np.float32]
) -> None:
    for i in range(out.size):
        out[i] = _between(np.float32(above[i]), np.float32(below[i]), weight)


@compiled
def _blend_columns(
    row: NDArray[np.float32], columns: Axis, start: int, step: int, out: NDArray[np.float32]
) -> None:
    """Sample a row whose positions are `step` values apart, the array's first at -start * step."""
    if columns.whole:
        for x in range(columns.begin, columns.end):
            out[x] = row[np.uint64((columns.low[x] - start) * step)]
    else:
        for x in range(columns.begin, columns.end):
            i = np.uint64((columns.low[x] - start) * step)
            out[x] = _between(row[i], row[i + np.uint64(step)], columns.weight[x])


@compiled
def sample_pixels(image: NDArray[Any], rows: Axis, columns: Axis, out: NDArray[np.float32]) -> None:
    """Sample an image between its pixels; 0 off the grid.

    Args:
        image: (h, w, C)
        out: (C, H, W)
    """
    height, width, channels = image.shape
    lines = image.reshape(height, width * channels)
    start = min(columns.low[0], columns.low[-1])
    stop = min(max(columns.low[0], columns.low[-1]) + 2, width)
    # The neighbour of the last pixel has no weight, but is read.
    row = np.zeros((stop - start + 1) * channels, np.float32)
    used = row[: (stop - start) * channels]
    out[:, : rows.begin] = 0
    out[:, rows.end :] = 0
    for y in range(rows.begin, rows.end):
        low = rows.low[y]
        above = lines[low, start * channels : stop * channels]
        below = lines[min(low + 1, height - 1), start * channels : stop * channels]
        if rows.whole:
            used[:] = above
        else:
            _blend_rows(above, below, rows.weight[y], used)
        for c in range(channels):
            line = out[c, y]
            line[: columns.begin] = 0
            _blend_columns(row[c:], columns, start, channels, line)
            line[columns.end :] = 0


@compiled
def sample_field(
    field: NDArray[np.float32], rows: Axis, columns: Axis, out: NDArray[np.float32]
) -> None:
    """Sample a field between its positions, at every output.

    Args:
        field: (C, h, w)
        out: (C, H, W)
    """
    channels, height, width = field.shape
    start = min(columns.low[0], columns.low[-1])
    stop = min(max(columns.low[0], columns.low[-1]) + 2, width)
    row = np.zeros(stop - start + 1, np.float32)
    used = row[: stop - start]
    for c in range(channels):
        for y in range(out.shape[1]):
            low = rows.low[y]
            if rows.whole:
                used[:] = field[c, low, start:stop]
            else:
                below = field[c, min(low + 1, height - 1), start:stop]
                _blend_rows(field[c, low, start:stop], below, rows.weight[y], used)
            _blend_columns(row, columns, start, 1, out[c, y])


@compiled
def sample_labels(
    labels: NDArray[Any], rows: Axis, columns: Axis, outside: int, out: NDArray[Any]
) -> None:
    """Look up the label, or another value of a pixel, under each point.

    Args:
        labels: (h, w)
        outside: label of what is off the grid
        out: (H, W)
    """
    out[: rows.begin] = outside
    out[rows.end :] = outside
    for y in range(rows.begin, rows.end):
        row, line = labels[rows.low[y]], out[y]
        line[: columns.begin] = outside
        for x in range(columns.begin, columns.end):
            line[x] = row[np.uint64(columns.low[x])]
        line[columns.end :] = outside
