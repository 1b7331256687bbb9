"""Many views at once, as tensors on any device: what `geometry` does, view by view, on the host.

Positions and weights along the axes are the host's own, so that the same values are sampled; each
is blended by torch.lerp, whose rounding the host's kernels have too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from stillroom.stages.view_values import Sampled
from stillroom.storage_specs.artifacts import IGNORE

if TYPE_CHECKING:
    from torch import Tensor


class Axes(NamedTuple):
    """What the outputs of a batch's views are sampled from, along one axis.

    Attributes:
        low: (B, n) int64, position at or before each sampled point
        weight: (B, n) float32, of the position after it; (B, 0) where the one under the point is
            taken
        span: (B, 2), begin and end of the outputs whose point lies on the grid
    """

    low: Tensor
    weight: Tensor
    span: Tensor


def inside(rows: Tensor, columns: Tensor, size: tuple[int, int]) -> Tensor:
    """Mark the outputs of two spans (B, 2): (B, 1, H, W) bool."""
    marks = []
    for span, length in zip((rows, columns), size, strict=True):
        place = torch.arange(length, device=span.device)
        marks.append((place >= span[:, :1]) & (place < span[:, 1:]))
    return marks[0][:, None, :, None] & marks[1][:, None, None, :]


def sampled(geometry: str, grid: Tensor, rows: Axes, columns: Axes) -> Tensor:
    """Sample a grid by an artifact's geometry, but for the scale of its values.

    Args:
        grid: (B, C, h, w) uint8 or float32

    Returns:
        (B, C, H, W) float32; (B, H, W) int64 of labels
    """
    if geometry in ("field", "vector"):
        return _between(grid, rows, columns)
    shown = inside(rows.span, columns.span, (rows.low.shape[1], columns.low.shape[1]))
    if geometry == "image":
        return _between(grid, rows, columns).mul_(shown)
    if geometry == "depth":
        return _with_holes(grid, grid != 0, rows, columns, shown).mean()
    if geometry == "direction":
        there = (grid != 0).any(1, keepdim=True)
        return _with_holes(grid, there, rows, columns, shown).unit()
    found = _at(_at(grid, 2, rows.low), 3, columns.low)
    if geometry == "nearest":
        return torch.where(shown, found, 0)
    return torch.where(shown, found.long(), IGNORE).squeeze(1)


def _with_holes(grid: Tensor, there: Tensor, rows: Axes, columns: Axes, shown: Tensor) -> Sampled:
    weight = _between(there.to(grid.dtype), rows, columns)
    return Sampled(_between(grid, rows, columns), weight, shown)


def _between(grid: Tensor, rows: Axes, columns: Axes) -> Tensor:
    return _blended(_blended(grid, 2, rows), 3, columns)


def _blended(grid: Tensor, dim: int, axes: Axes) -> Tensor:
    """Sample between positions along one dimension."""
    low = _at(grid, dim, axes.low).float()
    # Where the weight is 0 there may be no next position, and the value itself is wanted.
    high = _at(grid, dim, axes.low + (axes.weight > 0)).float()
    return torch.lerp(low, high, _along(axes.weight, dim))


def _at(grid: Tensor, dim: int, positions: Tensor) -> Tensor:
    """Gather positions (B, n) along a dimension."""
    shape = list(grid.shape)
    shape[dim] = positions.shape[1]
    return grid.gather(dim, _along(positions, dim).expand(shape))


def _along(values: Tensor, dim: int) -> Tensor:
    """(B, n) as (B, 1, n, 1) or (B, 1, 1, n)."""
    return values[:, None, :, None] if dim == 2 else values[:, None, None, :]
