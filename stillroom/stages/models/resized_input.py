"""Teachers that see a frame at a size of their own: frames to that size, grids back to the canvas.

A grid on the canvas has one whole stride, for both axes. Where the canvas's sides are one multiple
of the size's, the teacher's own cells lie so, and they are kept as they are. Elsewhere they are
brought to the largest stride at which none is lost: bilinear, between cell centres.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from stillroom.storage_specs.artifacts import artifact_of

if TYPE_CHECKING:
    from torch import Tensor

    Size = tuple[int, int]  # (height, width)


def resize_frames(frames: Tensor, size: Size, resample: str) -> Tensor:
    """Bring (B, 3, H, W) 0..255 to a size, smoothed where it shrinks, and to whole values.

    This is what Pillow does, and processors of transformers with it.

    Args:
        resample: "bilinear" or "bicubic"
    """
    if tuple(frames.shape[-2:]) == size:
        return frames
    return (
        F.interpolate(frames.float(), size, mode=resample, antialias=True).round_().clamp_(0, 255)
    )


def stride_on_canvas(stride: int, size: Size, canvas: Size) -> int:
    """Return canvas pixels to one cell: the largest whole number that loses no cell, at least 1.

    Args:
        stride: pixels of the resized frame to one cell
    """
    return max(1, min(stride * there // seen for there, seen in zip(canvas, size, strict=True)))


def grid_on_canvas(
    name: str, grid: Tensor, strides: tuple[int, int], sizes: tuple[Size, Size]
) -> Tensor:
    """Bring a grid of the resized frame to the canvas; one that lies so already is returned.

    Args:
        name: of the output, "depth": its holes are kept apart from its values
        grid: (B, C, h, w) or (B, h, w)
        strides: in pixels of the resized frame, and of the canvas
        sizes: of the resized frame, and of the canvas

    Returns:
        the same with ceil(H / stride) x ceil(W / stride) cells of the canvas, float32
    """
    stride, wanted = strides
    size, canvas = sizes
    if all(stride * there == wanted * seen for seen, there in zip(size, canvas, strict=True)):
        return grid
    if grid.ndim == 3:
        return grid_on_canvas(name, grid[:, None], strides, sizes)[:, 0]
    if artifact_of(name).geometry == "depth":
        there = (grid != 0).float()
        weight = _sample(there, strides, sizes)
        return torch.where(weight < 0.5, 0, _sample(grid.float() * there, strides, sizes) / weight)
    return _sample(grid.float(), strides, sizes)


def _sample(grid: Tensor, strides: tuple[int, int], sizes: tuple[Size, Size]) -> Tensor:
    stride, wanted = strides
    rows, columns = (
        resize_weights(cells, -(-there // wanted), wanted * seen / (stride * there)).to(grid.device)
        for cells, seen, there in zip(grid.shape[-2:], *sizes, strict=True)
    )
    return rows @ grid @ columns.T  # (h', h) (B, C, h, w) (w, w')


def resize_weights(cells: int, count: int, ratio: float) -> Tensor:
    """Return how much each of `count` positions takes of each cell, which lie `ratio` apart.

    A triangle around its centre, as wide as to leave no cell out; edges are repeated.
    """
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) * ratio - 0.5
    distance = torch.arange(cells) - centres.clamp(0, cells - 1)[:, None]
    weights = (1 - distance.abs() / max(1, ratio)).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()
