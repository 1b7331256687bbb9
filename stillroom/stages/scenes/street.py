"""The street's ground plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.stages.scenes.figures import vary

if TYPE_CHECKING:
    from stillroom.stages.scenes.draws import Draws
    from stillroom.stages.scenes.easel import Colour


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


def make_street(draws: Draws) -> Street:
    """Draw the numbers of a street."""
    half = draws.between(4.6, 6.8)
    grey = draws.between(0.26, 0.46)
    road = vary(draws, (grey, grey, grey * 1.02), 0.025)
    lift = draws.between(-0.03, 0.18)
    warm = draws.between(-0.02, 0.06)
    junction = draws.between(22, 75) if draws.chance(0.6) else -100.0
    return Street(
        half=half,
        wall=half + draws.between(3.5, 6.5),
        junction=(junction, junction + draws.between(7, 11)),
        road=road,
        pavement=(road[0] + lift + warm, road[1] + lift, road[2] + lift - warm),
        paint=draws.between(0.0, 0.5),
        grain=draws.between(0.05, 0.1),
        stains=draws.between(0.04, 0.12),
        slab=draws.between(0.6, 1.6),
    )
