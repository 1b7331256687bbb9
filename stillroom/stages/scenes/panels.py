"""Where cars, people, trees, poles and signs stand and go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.stages.scenes.classes import BUILDING, CAR, PEDESTRIAN, POLE, SIGN, TREE
from stillroom.stages.scenes.object_textures import (
    paint_car,
    paint_hedge_end,
    paint_house_end,
    paint_person,
    paint_pole,
    paint_sign,
    paint_tree,
)
from stillroom.stages.scenes.rng import wave
from stillroom.stages.scenes.walls import GAP, HOUSE

if TYPE_CHECKING:
    from stillroom.stages.scenes.object_textures import CarTextures
    from stillroom.stages.scenes.rng import Rng
    from stillroom.stages.scenes.street import Street
    from stillroom.stages.scenes.texture_painter import Colour
    from stillroom.stages.scenes.textures import NoiseTile, Texture
    from stillroom.stages.scenes.walls import Walls

_FURTHEST = 120.0


@dataclass(frozen=True, eq=False)
class Panel:
    """A flat, upright object.

    Attributes:
        texture: what it shows.
        label: its class.
        x, y, z: its foot at time 0: the middle of a panel that faces along the street, the
            near end of one that stands along it.
        vx, vz: metres a frame.
        side: 0 faces along the street; -1 or 1 stands along it and is seen from its left or
            right only.
        mirrored: the texture's columns run the other way.
        stride: metres that a leg swings each way at the ground; 0 for rigid objects.
        phase: of that swing, in periods.
        shadow: (half width, half depth) of the shadow under it; None for none.
        thing: (x, z) at time 0 of the car or person that it is a part of; None: it is whole.
    """

    texture: Texture
    label: int
    x: float
    z: float
    y: float = 0.0
    vx: float = 0.0
    vz: float = 0.0
    side: int = 0
    mirrored: bool = False
    stride: float = 0.0
    phase: float = 0.0
    shadow: tuple[float, float] | None = None
    thing: tuple[float, float] | None = None

    def foot(self, time: int) -> tuple[float, float]:
        """Return (x, z) at a frame."""
        return self.x + self.vx * time, self.z + self.vz * time

    def lean(self, time: int) -> float:
        """Return how far the foot lies to the right of the top, in metres a metre of height."""
        if self.stride == 0.0:
            return 0.0
        return self.stride / self.texture.height_m * wave(time / 9.0 + self.phase)


def object_panels(
    rng: Rng,
    street: Street,
    speed: float,
    density: float,
    tiles: tuple[NoiseTile, NoiseTile],
    leaf: Colour,
) -> tuple[Panel, ...]:
    """Place cars, people, trees, poles and signs; `speed` is the camera's, in metres a frame."""
    cars = [paint_car(rng, density) for _ in range(4)]
    people = [paint_person(rng, density) for _ in range(5)]
    panels = _parked_cars(rng, street, cars) + _driving_cars(rng, street, speed, cars)
    panels += _pedestrians(rng, street, people)
    trees = [paint_tree(rng, min(density, 40.0), *tiles, leaf) for _ in range(3)]
    return tuple(panels + _trees(rng, street, trees) + _poles_and_signs(rng, street, density))


def gap_panels(
    rng: Rng, street: Street, walls: Walls, sign: int, tiles: tuple[NoiseTile, NoiseTile]
) -> tuple[Panel, ...]:
    """Close the view through the gaps of one side by the ends of the blocks behind them."""
    panels = []
    wide = 22.0
    for block in range(1, len(walls.kind)):
        if walls.kind[block] == GAP or walls.kind[block - 1] != GAP:
            continue
        high = float(walls.top[block])
        red, green, blue = (float(channel) for channel in walls.colour[block])
        if walls.kind[block] == HOUSE:
            texture = paint_house_end(rng, wide, high, (red, green, blue), tiles[1])
        else:
            texture = paint_hedge_end(rng, wide, high, (red, green, blue), tiles[0])
        label = BUILDING if walls.kind[block] == HOUSE else TREE
        x = sign * (street.wall + wide / 2)
        panels.append(Panel(texture, label, x, float(walls.edges[block])))
    return tuple(panels)


def _car(car: CarTextures, x: float, z: float, vz: float, oncoming: bool) -> list[Panel]:
    panels = [
        Panel(
            car.side,
            CAR,
            x + side * 0.86,
            z,
            vz=vz,
            side=side,
            mirrored=oncoming,
            shadow=(0.55, 2.4),
            thing=(x, z),
        )
        for side in (-1, 1)
    ]
    if oncoming:
        panels.append(Panel(car.screen, CAR, x, z + car.setback, vz=vz, thing=(x, z)))
    end = car.nose if oncoming else car.back
    return [*panels, Panel(end, CAR, x, z, vz=vz, shadow=(1.05, 0.5), thing=(x, z))]


def _parked_cars(rng: Rng, street: Street, cars: list[CarTextures]) -> list[Panel]:
    panels: list[Panel] = []
    for side in (-1, 1):
        share = rng.between(0.0, 0.75)
        z = rng.between(3, 9)
        while z < 95:
            near_junction = street.junction[0] - 7 < z < street.junction[1] + 2
            if rng.chance(share) and not near_junction:
                x = side * (street.half - rng.between(1.0, 1.2))
                panels += _car(rng.pick(cars), x, z, 0.0, rng.chance(0.3))
            z += rng.between(5.2, 8.0)
    return panels


def _driving_cars(rng: Rng, street: Street, speed: float, cars: list[CarTextures]) -> list[Panel]:
    panels: list[Panel] = []
    lane = (street.half - 2.2) * 0.5
    for _ in range(rng.below(3)):
        ahead = speed + rng.between(-0.04, 0.3)
        panels += _car(rng.pick(cars), lane, rng.between(9, 45), ahead, False)
    for _ in range(rng.below(4)):
        towards = -rng.between(0.2, 0.8)
        panels += _car(rng.pick(cars), -lane, rng.between(12, 90), towards, True)
    if street.junction[0] > 0:
        for _ in range(1 + rng.below(3)):
            rightward = rng.chance(0.5)
            z = street.junction[0] + (2.2 if rightward else 4.8) + rng.between(0, 0.6)
            vx = rng.between(0.2, 0.7) * (1 if rightward else -1)
            side = rng.pick(cars).side
            x = rng.between(-18, 18)
            panels.append(Panel(side, CAR, x, z, vx=vx, mirrored=not rightward, shadow=(2.2, 0.9)))
    return panels


def _pedestrians(rng: Rng, street: Street, people: list[tuple[Texture, Texture]]) -> list[Panel]:
    panels: list[Panel] = []
    for _ in range(7 + rng.below(14)):
        z = rng.between(6, 42)
        x = rng.pick((-1, 1)) * rng.between(street.half + 0.5, street.wall - 0.4)
        panels += _person(rng, people, x, z, 0.0, rng.between(-0.13, 0.13))
    for _ in range(rng.below(4)):
        x, vx = rng.between(-street.half, street.half), rng.pick((-0.13, 0.13))
        panels += _person(rng, people, x, rng.between(9, 35), vx, 0.0)
    return panels


def _person(
    rng: Rng,
    people: list[tuple[Texture, Texture]],
    x: float,
    z: float,
    vx: float,
    vz: float,
) -> list[Panel]:
    upper, leg = rng.pick(people)
    phase = rng.unit()
    stride = 0.32 if vx else 0.12
    turned = vx < 0
    legs = [
        Panel(
            leg,
            PEDESTRIAN,
            x + apart,
            z,
            0.0,
            vx,
            vz,
            mirrored=turned,
            stride=swing,
            phase=phase,
            thing=(x, z),
        )
        for apart, swing in ((-0.07, stride), (0.07, -stride))
    ]
    body = Panel(
        upper, PEDESTRIAN, x, z, 0.78, vx, vz, mirrored=turned, shadow=(0.4, 0.25), thing=(x, z)
    )
    return [*legs, body]


def _trees(rng: Rng, street: Street, trees: list[Texture]) -> list[Panel]:
    panels = []
    for side in (-1, 1):
        if rng.chance(0.25):
            continue
        z = rng.between(6, 16)
        spacing = rng.between(6, 14)
        while z < 100:
            if not street.junction[0] - 3 < z < street.junction[1] + 3:
                x = side * (street.half + rng.between(0.7, 1.1))
                mirrored = rng.chance(0.5)
                panels.append(
                    Panel(rng.pick(trees), TREE, x, z, mirrored=mirrored, shadow=(1.6, 1.2))
                )
            z += spacing * rng.between(0.8, 1.5)
    return panels


def _poles_and_signs(rng: Rng, street: Street, density: float) -> list[Panel]:
    panels = []
    lamps = [paint_pole(rng, density) for _ in range(2)]
    posts = [paint_pole(rng, density) for _ in range(2)]
    signs = [paint_sign(rng, density) for _ in range(5)]
    z = rng.between(6, 12)
    while z < _FURTHEST:
        side = rng.pick((-1, 1))
        x = side * (street.half + rng.between(0.25, 0.6))
        post = rng.pick(lamps + posts)
        panels.append(Panel(post, POLE, x, z, mirrored=side > 0))
        if rng.chance(0.65):
            sign = rng.pick(signs)
            y = min(rng.between(2.0, 2.4), post.height_m - sign.height_m / 2)
            # a hand's breadth nearer, so that the plate hides its post
            panels.append(Panel(sign, SIGN, x, z - 0.1, y))
        z += rng.between(5, 16)
    return panels
