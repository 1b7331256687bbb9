"""The street's ground plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.stages.scenes.object_textures import vary

if TYPE_CHECKING:
    from stillroom.stages.scenes.rng import Rng
    from stillroom.stages.scenes.texture_painter import Colour


@dataclass(frozen=True)
class Street:
    """The ground plan; lengths in metres.

    Attributes:
        half: from the middle to the kerb.
        wall: from the middle to the houses.
        junction: where a crossing street begins and ends along z; negative for none.
        road, pavement: colours.
        paint: how worn the road marking is, 0 fresh .. 0.5.
        grain, stains: amplitude of fine and of coarse noise.
        slab: side of a paving slab.
    """

    half: float
    wall: float
    junction: tuple[float, float]
    road: Colour
    pavement: Colour
    paint: float
    grain: float
    stains: float
    slab: float


def make_street(rng: Rng) -> Street:
    """Draw the numbers of a street."""
    half = rng.between(4.6, 6.8)
    grey = rng.between(0.26, 0.46)
    road = vary(rng, (grey, grey, grey * 1.02), 0.025)
    lift = rng.between(-0.03, 0.18)
    warm = rng.between(-0.02, 0.06)
    junction = rng.between(22, 75) if rng.chance(0.6) else -100.0
    return Street(
        half=half,
        wall=half + rng.between(3.5, 6.5),
        junction=(junction, junction + rng.between(7, 11)),
        road=road,
        pavement=(road[0] + lift + warm, road[1] + lift, road[2] + lift - warm),
        paint=rng.between(0.0, 0.5),
        grain=rng.between(0.05, 0.1),
        stains=rng.between(0.04, 0.12),
        slab=rng.between(0.6, 1.6),
    )
