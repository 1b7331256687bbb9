"""Paint one panel's texture in metres: shapes on a grid of texels, later ones over earlier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.textures import NoiseTile, Texture, make_texture

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Colour: TypeAlias = tuple[float, float, float]
    Floats: TypeAlias = NDArray[np.float32]
    Where: TypeAlias = NDArray[np.bool_]


class TexturePainter:
    """An empty texture of `width` x `height` metres; x runs from its middle, y from its foot.

    Attributes:
        x: float32 (1, w), metres right of the middle, at texel centres.
        y: float32 (h, 1), metres above the foot.
    """

    def __init__(self, width: float, height: float, density: float) -> None:
        self.density = density
        columns = max(2, round(width * density))
        rows = max(2, round(height * density))
        self.x = ((np.arange(columns) + 0.5) / density - columns / density / 2).astype(np.float32)[
            None, :
        ]
        self.y = ((rows - np.arange(rows) - 0.5) / density).astype(np.float32)[:, None]
        self.colour = np.zeros((rows, columns, 3), np.float32)
        self.mask = np.zeros((rows, columns), np.bool_)

    def box(self, left: float, right: float, low: float, high: float) -> Where:
        """Cover an upright rectangle."""
        return self._full((self.x >= left) & (self.x < right) & (self.y >= low) & (self.y < high))

    def ellipse(self, x: float, y: float, half_width: float, half_height: float) -> Where:
        """Cover an ellipse about (x, y)."""
        return self._full(((self.x - x) / half_width) ** 2 + ((self.y - y) / half_height) ** 2 < 1)

    def trapezium(self, low: float, high: float, below: float, above: float) -> Where:
        """Cover a trapezium from half width `below` at y `low` to `above` at y `high`."""
        half = below + (above - below) * (self.y - low) / (high - low)
        return self._full((abs(self.x) < half) & (self.y >= low) & (self.y < high))

    def fill(self, where: Where, colour: Colour) -> None:
        """Add a shape in one colour."""
        self.mask |= where
        self.colour[where] = colour

    def tint(self, where: Where, colour: Colour) -> None:
        """Paint a shape in one colour, only where there is something already."""
        self.colour[where & self.mask] = colour

    def shade(self, factor: Floats) -> None:
        """Multiply colours by (h, w) or anything that broadcasts to it."""
        self.colour *= np.broadcast_to(factor, self.mask.shape)[:, :, None]

    def noise(self, tile: NoiseTile, scale: float, offset: tuple[float, float]) -> Floats:
        """Sample noise (h, w) with `scale` texels of the tile to a metre."""
        u = np.broadcast_to(self.x * scale + offset[0], self.mask.shape).astype(np.float32)
        v = np.broadcast_to(self.y * scale + offset[1], self.mask.shape).astype(np.float32)
        return tile.sample(u, v, np.full(self.mask.shape, scale / self.density, np.float32))

    def finish(self) -> Texture:
        """Return the texture."""
        return make_texture(np.clip(self.colour, 0, 1), self.mask, self.density)

    def _full(self, where: Where) -> Where:
        return np.broadcast_to(where, self.mask.shape)
