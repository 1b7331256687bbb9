"""Which positions of an array a view samples, along its rows and its columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.stages.view_kernels import linear_axis, nearest_axis

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.view import View
    from stillroom.stages.view_kernels import Axis, Line


@dataclass(frozen=True)
class Part:
    """Where an array that is a window of a larger grid lies in it: positions.

    Attributes:
        height, width: of the whole grid
        rows, columns: that the array holds
    """

    height: int
    width: int
    rows: slice
    columns: slice


def part_needed(view: View, size: tuple[int, int], stride: int, out_stride: int) -> Part:
    """Find the positions of a grid that a view needs: given these, `apply_*` need no others.

    Args:
        size: (height, width) of the grid in positions
        stride, out_stride: as for `apply_field`; 1, 1 for what has no stride
    """
    whole = Part(*size, slice(0, size[0]), slice(0, size[1]))
    axes = axes_between(view, whole, stride, out_stride)
    return Part(*size, *map(positions_needed, axes, size))


def positions_needed(axis: Axis, length: int) -> slice:
    """Find the positions that an axis samples, of the `length` of a whole grid."""
    first, last = sorted((int(axis.low[0]), int(axis.low[-1])))
    reach = 2 if len(axis.weight) else 1
    return slice(first, min(last + reach, length))


def sampled_lines(view: View, out_stride: int) -> tuple[Line, Line]:
    """Return the sampled points along the rows and the columns."""
    return (
        (float(view.top), float(view.height), view.out_height, False, out_stride),
        (float(view.left), float(view.width), view.out_width, view.flip, out_stride),
    )


def axes_between(view: View, part: Part, stride: int, out_stride: int) -> tuple[Axis, Axis]:
    """Return the rows and columns to sample between, of a grid of `stride`."""
    rows, columns = sampled_lines(view, out_stride)
    return (
        linear_axis(rows, stride, part.height, part.rows.start),
        linear_axis(columns, stride, part.width, part.columns.start),
    )


def axes_under(view: View, part: Part) -> tuple[Axis, Axis]:
    """Return the rows and columns of the pixels under the sampled points."""
    rows, columns = sampled_lines(view, 1)
    return (
        nearest_axis(rows, part.height, part.rows.start),
        nearest_axis(columns, part.width, part.columns.start),
    )


def whole_of(grid: Tensor) -> Part:
    """Return a grid as a part: all of it."""
    height, width = grid.shape[-2:]
    return Part(height, width, slice(0, height), slice(0, width))
