"""The two rows of houses and hedges beside the street, each an upright plane along z."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.object_textures import WALLS, vary

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.rng import Rng
    from stillroom.stages.scenes.street import Street
    from stillroom.stages.scenes.texture_painter import Colour

STREET_START = -10.0
STREET_END = 170.0
HOUSE, HEDGE, GAP = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Walls:
    """The blocks of one side, a row of each array a block.

    Attributes:
        edges: float64 (blocks + 1,), where blocks begin and end along z.
        kind: HOUSE, HEDGE or GAP.
        top: metres.
        colour, glass, shop: (blocks, 3) of the wall, the windows and the ground floor.
        floor, bay: height of a storey and width of a window's bay.
        window: (blocks, 2) share of bay and of storey that is glass.
        offset: (blocks,) where in the noise a block begins.
    """

    edges: NDArray[np.float64]
    kind: NDArray[np.int32]
    top: NDArray[np.float64]
    colour: NDArray[np.float32]
    glass: NDArray[np.float32]
    shop: NDArray[np.float32]
    floor: NDArray[np.float32]
    bay: NDArray[np.float32]
    window: NDArray[np.float32]
    offset: NDArray[np.float32]

    def block(self, z: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the block at z; places beyond the ends belong to the last ones."""
        found = np.searchsorted(self.edges, z, side="right") - 1
        return np.clip(found, 0, len(self.kind) - 1)

    def profile(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the height at z, in metres; 0 where there is no wall."""
        block = self.block(z)
        along = z - self.edges[block]
        top = self.top[block]
        # chimneys on houses, bushes in hedges: both are steps along z
        step = np.floor(along / np.where(self.kind[block] == HOUSE, 1.1, 0.55)).astype(np.int64)
        bump = ((step * 7 + block * 5) % 11) / 10.0
        house = top + np.where(bump > 0.85, 1.3, 0.0)
        hedge = top * (0.88 + 0.2 * bump)
        high = np.where(self.kind[block] == HOUSE, house, hedge)
        stands = (self.kind[block] != GAP) & (z > self.edges[0]) & (z < self.edges[-1])
        return np.where(stands, high, 0.0)


def build_walls(rng: Rng, street: Street, leaf: Colour) -> Walls:
    """Line one side of the street, leaving the junction open."""
    edges, rows = [STREET_START], []
    while edges[-1] < STREET_END:
        edges.append(edges[-1] + rng.between(6, 19))
        middle = (edges[-1] + edges[-2]) / 2
        open_here = street.junction[0] - 5 < middle < street.junction[1] + 5
        chance = rng.unit()
        kind = GAP if open_here else HOUSE if chance < 0.76 else HEDGE if chance < 0.93 else GAP
        rows.append(_block(rng, kind, leaf))
    columns = list(zip(*rows, strict=True))
    arrays = [np.array(column, np.float32) for column in columns[2:]]
    return Walls(
        np.array(edges), np.array(columns[0], np.int32), np.array(columns[1], np.float64), *arrays
    )


def _block(rng: Rng, kind: int, leaf: Colour) -> tuple[object, ...]:
    wall = vary(rng, rng.pick(WALLS), 0.06)
    dark = rng.between(0.12, 0.4)
    glass = vary(rng, (dark, dark * 1.08, dark * 1.2), 0.03)
    shop = vary(rng, rng.pick(WALLS), 0.15) if rng.chance(0.5) else wall
    top = rng.between(5, 17) if kind == HOUSE else rng.between(1.2, 4.5)
    return (
        kind,
        top,
        wall if kind == HOUSE else vary(rng, leaf, 0.05),
        glass,
        shop,
        rng.between(2.7, 3.6),
        rng.between(1.5, 3.2),
        (rng.between(0.3, 0.7), rng.between(0.4, 0.65)),
        rng.between(0, 256),
    )
