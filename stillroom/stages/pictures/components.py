"""Maps of many channels in colours: their first three principal components, red, green and blue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LOW, HIGH = 0.01, 0.99  # quantiles of a component that are dark and bright


def component_pictures(
    grids: Sequence[NDArray[Any]], shown: Sequence[NDArray[np.bool_]], stride: int
) -> list[NDArray[np.uint8]]:
    """Paint the maps of one layer on one scale: what is alike has one colour in all frames.

    Args:
        grids: (C, h, w) of each frame
        shown: (H, W) of each, False where the frame is padding, which counts for nothing
        stride: pixels to a position

    Returns:
        (H, W, 3) uint8 of each; components that are lacking or constant are grey
    """
    inside = [
        _under_centres(one, grid.shape[1:], stride) for grid, one in zip(grids, shown, strict=True)
    ]
    values = np.concatenate(
        [grid[:, one].T for grid, one in zip(grids, inside, strict=True)]
    ).astype(np.float64)
    mean, axes = values.mean(0), _axes(values)
    low, high = np.quantile((values - mean) @ axes, (LOW, HIGH), axis=0)
    return [
        _painted((np.moveaxis(grid, 0, -1) - mean) @ axes, low, high, one.shape, stride)
        for grid, one in zip(grids, shown, strict=True)
    ]


def _under_centres(
    shown: NDArray[np.bool_], size: tuple[int, ...], stride: int
) -> NDArray[np.bool_]:
    """Return whether the pixel under each position's centre is shown, (h, w)."""
    rows, columns = (
        np.minimum(np.arange(count) * stride + stride // 2, side - 1)
        for count, side in zip(size, shown.shape, strict=True)
    )
    return np.asarray(shown[rows][:, columns])


def _axes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the directions of the largest variance of (n, C), (C, 3), their signs fixed."""
    _, vectors = np.linalg.eigh(np.cov(values, rowvar=False).reshape(values.shape[1], -1))
    axes = np.zeros((values.shape[1], 3))
    found = vectors[:, ::-1][:, :3]
    largest = found[np.abs(found).argmax(0), np.arange(found.shape[1])]
    axes[:, : found.shape[1]] = found * np.sign(largest)
    return axes


def _painted(
    components: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    size: tuple[int, ...],
    stride: int,
) -> NDArray[np.uint8]:
    wide = high - low
    level = np.where(wide > 0, (components - low) / np.where(wide > 0, wide, 1), 0.5)
    cells = (255 * level.clip(0, 1)).round().astype(np.uint8)
    return cells.repeat(stride, 0).repeat(stride, 1)[: size[0], : size[1]]
