"""Tiles of noise and textures of panels, both as pyramids so that distant ones do not flicker."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from stillroom.stages.scenes.rng import Rng

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]

TILE = 256
_LEVELS = 7
_SHRINK = (1 / (1 << np.arange(_LEVELS))).astype(np.float32)


@dataclass(frozen=True, eq=False)
class NoiseTile:
    """A square of noise that repeats in both directions, about -1..1, with its coarser levels.

    Attributes:
        values: float32, all levels one after the other, row by row.
        starts: int32 (levels,), where each level begins in `values`.
    """

    values: Floats
    starts: NDArray[np.int32]

    def sample(self, u: Floats, v: Floats, footprint: Floats) -> Floats:
        """Sample bilinearly at (u, v), in texels, where a pixel covers `footprint` texels."""
        level = level_of(footprint, _LEVELS - 1)
        mask = (TILE >> level) - 1
        u, v = u * _SHRINK[level], v * _SHRINK[level]
        column, row = np.floor(u), np.floor(v)
        fu, fv = u - column, v - row
        left = column.astype(np.int32)
        top = row.astype(np.int32)
        right = (left + 1) & mask
        left &= mask
        start = self.starts[level]
        width = mask + 1
        upper = start + (top & mask) * width
        lower = start + ((top + 1) & mask) * width
        values = self.values
        above = values[upper + left] * (1 - fu) + values[upper + right] * fu
        below = values[lower + left] * (1 - fu) + values[lower + right] * fu
        return np.asarray(above * (1 - fv) + below * fv, np.float32)


@dataclass(frozen=True, eq=False)
class Texture:
    """The picture on a panel.

    Attributes:
        levels: float32 (h, w, 3) colours 0..1, each level half the size of the one before.
        mask: bool (h, w), True where the panel is; row 0 is its top.
        density: texels a metre, at the first level.
    """

    levels: tuple[Floats, ...]
    mask: NDArray[np.bool_]
    density: float

    @property
    def width_m(self) -> float:
        """Metres from edge to edge."""
        return float(self.mask.shape[1] / self.density)

    @property
    def height_m(self) -> float:
        """Metres from bottom to top."""
        return float(self.mask.shape[0] / self.density)


@dataclass(frozen=True, eq=False)
class TextureAtlas:
    """Every texture of a scene in one array, so that one pass colours all panels.

    Attributes:
        texels: float32 (n, 3), all levels of all textures, row by row.
        starts, heights, widths: int32 (textures, levels), where each level lies in `texels`;
            the levels beyond a small texture's coarsest repeat it.
        shrink: float32 (textures, levels), texels of a level to one of the first.
        density: float32 (textures,), texels a metre at the first level.
    """

    texels: Floats
    starts: NDArray[np.int32]
    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    shrink: Floats
    density: Floats

    def colour(
        self, texture: NDArray[np.intp], row: Floats, column: Floats, wide: Floats
    ) -> Floats:
        """Sample colours (n, 3) bilinearly in texels, where a pixel covers `wide` metres."""
        level = level_of(wide * self.density[texture], self.starts.shape[1] - 1)
        at = (texture, level)
        start, height, width = self.starts[at], self.heights[at], self.widths[at]
        shrink = self.shrink[at]
        y = np.minimum(np.maximum(row * shrink - np.float32(0.5), 0), height - 1)
        x = np.minimum(np.maximum(column * shrink - np.float32(0.5), 0), width - 1)
        top, left = y.astype(np.int32), x.astype(np.int32)
        fy = (y - top).astype(np.float32)[:, None]
        fx = (x - left).astype(np.float32)[:, None]
        lower = start + np.minimum(top + 1, height - 1) * width
        upper = start + top * width
        right = np.minimum(left + 1, width - 1)
        flat = self.texels
        above = flat[upper + left] * (1 - fx) + flat[upper + right] * fx
        below = flat[lower + left] * (1 - fx) + flat[lower + right] * fx
        return np.asarray(above * (1 - fy) + below * fy, np.float32)


def make_atlas(textures: Sequence[Texture]) -> TextureAtlas:
    """Lay textures end to end."""
    depth = max(len(texture.levels) for texture in textures)
    texels: list[Floats] = []
    starts, heights, widths, shrink = [], [], [], []
    filled = 0
    for texture in textures:
        begins = []
        for level in texture.levels:
            begins.append(filled)
            filled += level.shape[0] * level.shape[1]
            texels.append(level.reshape(-1, 3))
        last = len(begins) - 1
        used = [min(level, last) for level in range(depth)]
        starts.append([begins[level] for level in used])
        heights.append([texture.levels[level].shape[0] for level in used])
        widths.append([texture.levels[level].shape[1] for level in used])
        shrink.append([0.5**level for level in used])
    return TextureAtlas(
        np.concatenate(texels),
        np.array(starts, np.int32),
        np.array(heights, np.int32),
        np.array(widths, np.int32),
        np.array(shrink, np.float32),
        np.array([texture.density for texture in textures], np.float32),
    )


def level_of(footprint: Floats, highest: int) -> NDArray[np.int32]:
    """Choose the pyramid level for a pixel that covers `footprint` texels of the first."""
    level = np.zeros(footprint.shape, np.int32)
    for step in range(1, highest + 1):
        level += footprint >= 2.0**step
    return level


def make_texture(colour: Floats, mask: NDArray[np.bool_], density: float) -> Texture:
    """Build the pyramid; texels outside the mask do not bleed into the coarser levels."""
    weight = mask.astype(np.float32)
    premultiplied = colour * weight[:, :, None]
    levels = [colour]
    while min(weight.shape) > 2:
        premultiplied = _halve(premultiplied)
        weight = _halve(weight[:, :, None])[:, :, 0]
        mean = premultiplied / np.maximum(weight, np.float32(1e-6))[:, :, None]
        levels.append(np.asarray(mean, np.float32))
    return Texture(tuple(levels), mask, density)


@lru_cache(maxsize=8)
def noise_tiles(seed: int) -> tuple[NoiseTile, NoiseTile]:
    """Make a rough tile (all octaves alike) and a smooth one (the coarse octaves lead)."""
    rng = Rng(seed, 0, 1)
    rough = _noise(rng, (16, 32, 64, 128, 256), (0.5, 0.6, 0.8, 0.9, 0.8))
    smooth = _noise(rng, (4, 8, 16, 32, 64), (1.0, 0.7, 0.5, 0.35, 0.25))
    return _pyramid(rough), _pyramid(smooth)


def _noise(rng: Rng, grids: tuple[int, ...], weights: tuple[float, ...]) -> Floats:
    total = np.zeros((TILE, TILE), np.float32)
    for grid, weight in zip(grids, weights, strict=True):
        knots = rng.octets(grid * grid).reshape(grid, grid).astype(np.float32)
        total += np.float32(weight) * _spread(_spread(knots / 127.5 - 1, TILE).T, TILE).T
    low, high = total.min(), total.max()
    return np.asarray((total - low) * (np.float32(2) / (high - low)) - np.float32(1), np.float32)


def _spread(knots: Floats, size: int) -> Floats:
    """Interpolate rows of knots smoothly and cyclically to `size` columns."""
    position = (np.arange(size) * knots.shape[1] / size).astype(np.float32)
    left = position.astype(np.int32)
    part = position - left
    part = part * part * (3 - 2 * part)
    right = (left + 1) % knots.shape[1]
    return np.asarray(knots[:, left] * (1 - part) + knots[:, right] * part, np.float32)


def _pyramid(noise: Floats) -> NoiseTile:
    levels = [noise]
    for _ in range(_LEVELS - 1):
        levels.append(_halve(levels[-1][:, :, None])[:, :, 0])
    sizes = [level.size for level in levels]
    starts = [sum(sizes[:index]) for index in range(_LEVELS)]
    return NoiseTile(
        np.concatenate([level.ravel() for level in levels]), np.array(starts, dtype=np.int32)
    )


def _halve(values: Floats) -> Floats:
    """Take the mean of 2 x 2 texels; an odd last row or column is repeated."""
    if values.shape[0] % 2:
        values = np.concatenate([values, values[-1:]], axis=0)
    if values.shape[1] % 2:
        values = np.concatenate([values, values[:, -1:]], axis=1)
    rows = values[0::2] + values[1::2]
    return (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)
