"""Where cars, people, trees, poles and signs stand and go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.stages.scenes import figures
from stillroom.stages.scenes.draws import wave
from stillroom.stages.scenes.walls import GAP, HOUSE

if TYPE_CHECKING:
    from stillroom.stages.scenes.draws import Draws
    from stillroom.stages.scenes.easel import Colour
    from stillroom.stages.scenes.figures import Car
    from stillroom.stages.scenes.street import Street
    from stillroom.stages.scenes.textures import Picture, Tile
    from stillroom.stages.scenes.walls import Walls

BUILDING, TREE, POLE, SIGN, CAR, PEDESTRIAN = 1, 4, 5, 6, 7, 8
_FURTHEST = 120.0


@dataclass(frozen=True, eq=False)
class Panel:
    """A flat, upright thing.

    Attributes:
        picture: what it shows.
        label: its class.
        x, y, z: its foot at time 0: the middle of a panel that faces along the street, the
            near end of one that stands along it.
        vx, vz: metres a frame.
        side: 0 faces along the street; -1 or 1 stands along it and is seen from its left or
            right only.
        mirrored: the picture's columns run the other way.
        stride: metres that a leg swings each way at the ground; 0 for rigid things.
        phase: of that swing.
        shadow: (half width, half depth) of the shadow under it; None for none.
    """

    picture: Picture
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

    def foot(self, time: int) -> tuple[float, float]:
        """(x, z) at a frame."""
        return self.x + self.vx * time, self.z + self.vz * time

    def lean(self, time: int) -> float:
        """Metres that the panel's foot lies right of where its top stands, a metre of height."""
        if self.stride == 0.0:
            return 0.0
        return self.stride / self.picture.height_m * wave(time / 9.0 + self.phase)


def furnish(
    draws: Draws,
    street: Street,
    speed: float,
    density: float,
    tiles: tuple[Tile, Tile],
    leaf: Colour,
) -> tuple[Panel, ...]:
    """Put everything into the street; `speed` is the camera's, in metres a frame."""
    cars = [figures.car(draws, density) for _ in range(4)]
    people = [figures.person(draws, density) for _ in range(5)]
    panels = _parked(draws, street, cars) + _driving(draws, street, speed, cars)
    panels += _walking(draws, street, people)
    trees = [figures.tree(draws, min(density, 40.0), *tiles, leaf) for _ in range(3)]
    return tuple(panels + _planted(draws, street, trees) + _posts(draws, street, density))


def ends(
    draws: Draws, street: Street, walls: Walls, sign: int, tiles: tuple[Tile, Tile]
) -> tuple[Panel, ...]:
    """What closes the view through the gaps of one side: the ends of the blocks behind them."""
    panels = []
    wide = 22.0
    for block in range(1, len(walls.kind)):
        if walls.kind[block] == GAP or walls.kind[block - 1] != GAP:
            continue
        high = float(walls.top[block])
        red, green, blue = (float(channel) for channel in walls.colour[block])
        if walls.kind[block] == HOUSE:
            picture = figures.flank(draws, wide, high, (red, green, blue), tiles[1])
        else:
            picture = figures.bushes(draws, wide, high, (red, green, blue), tiles[0])
        label = BUILDING if walls.kind[block] == HOUSE else TREE
        x = sign * (street.wall + wide / 2)
        panels.append(Panel(picture, label, x, float(walls.edges[block])))
    return tuple(panels)


def _car(car: Car, x: float, z: float, vz: float, oncoming: bool) -> list[Panel]:
    panels = [
        Panel(
            car.flank,
            CAR,
            x + side * 0.86,
            z,
            vz=vz,
            side=side,
            mirrored=oncoming,
            shadow=(0.55, 2.4),
        )
        for side in (-1, 1)
    ]
    if oncoming:
        panels.append(Panel(car.screen, CAR, x, z + car.setback, vz=vz))
    end = car.nose if oncoming else car.back
    return [*panels, Panel(end, CAR, x, z, vz=vz, shadow=(1.05, 0.5))]


def _parked(draws: Draws, street: Street, cars: list[Car]) -> list[Panel]:
    panels: list[Panel] = []
    for side in (-1, 1):
        share = draws.between(0.0, 0.75)
        z = draws.between(3, 9)
        while z < 95:
            near_junction = street.junction[0] - 7 < z < street.junction[1] + 2
            if draws.chance(share) and not near_junction:
                x = side * (street.half - draws.between(1.0, 1.2))
                panels += _car(draws.pick(cars), x, z, 0.0, draws.chance(0.3))
            z += draws.between(5.2, 8.0)
    return panels


def _driving(draws: Draws, street: Street, speed: float, cars: list[Car]) -> list[Panel]:
    panels: list[Panel] = []
    lane = (street.half - 2.2) * 0.5
    for _ in range(draws.below(3)):
        ahead = speed + draws.between(-0.04, 0.3)
        panels += _car(draws.pick(cars), lane, draws.between(9, 45), ahead, False)
    for _ in range(draws.below(4)):
        towards = -draws.between(0.2, 0.8)
        panels += _car(draws.pick(cars), -lane, draws.between(12, 90), towards, True)
    if street.junction[0] > 0:
        for _ in range(1 + draws.below(3)):
            rightward = draws.chance(0.5)
            z = street.junction[0] + (2.2 if rightward else 4.8) + draws.between(0, 0.6)
            vx = draws.between(0.2, 0.7) * (1 if rightward else -1)
            flank = draws.pick(cars).flank
            x = draws.between(-18, 18)
            panels.append(Panel(flank, CAR, x, z, vx=vx, mirrored=not rightward, shadow=(2.2, 0.9)))
    return panels


def _walking(draws: Draws, street: Street, people: list[tuple[Picture, Picture]]) -> list[Panel]:
    panels: list[Panel] = []
    for _ in range(7 + draws.below(14)):
        z = draws.between(6, 42)
        x = draws.pick((-1, 1)) * draws.between(street.half + 0.5, street.wall - 0.4)
        panels += _person(draws, people, x, z, 0.0, draws.between(-0.13, 0.13))
    for _ in range(draws.below(4)):
        x, vx = draws.between(-street.half, street.half), draws.pick((-0.13, 0.13))
        panels += _person(draws, people, x, draws.between(9, 35), vx, 0.0)
    return panels


def _person(
    draws: Draws,
    people: list[tuple[Picture, Picture]],
    x: float,
    z: float,
    vx: float,
    vz: float,
) -> list[Panel]:
    upper, leg = draws.pick(people)
    phase = draws.unit()
    stride = 0.32 if vx else 0.12
    turned = vx < 0
    legs = [
        Panel(
            leg, PEDESTRIAN, x + apart, z, 0.0, vx, vz, mirrored=turned, stride=swing, phase=phase
        )
        for apart, swing in ((-0.07, stride), (0.07, -stride))
    ]
    body = Panel(upper, PEDESTRIAN, x, z, 0.78, vx, vz, mirrored=turned, shadow=(0.4, 0.25))
    return [*legs, body]


def _planted(draws: Draws, street: Street, trees: list[Picture]) -> list[Panel]:
    panels = []
    for side in (-1, 1):
        if draws.chance(0.25):
            continue
        z = draws.between(6, 16)
        spacing = draws.between(6, 14)
        while z < 100:
            if not street.junction[0] - 3 < z < street.junction[1] + 3:
                x = side * (street.half + draws.between(0.7, 1.1))
                mirrored = draws.chance(0.5)
                panels.append(
                    Panel(draws.pick(trees), TREE, x, z, mirrored=mirrored, shadow=(1.6, 1.2))
                )
            z += spacing * draws.between(0.8, 1.5)
    return panels


def _posts(draws: Draws, street: Street, density: float) -> list[Panel]:
    panels = []
    lamps = [figures.pole(draws, density) for _ in range(2)]
    posts = [figures.pole(draws, density) for _ in range(2)]
    signs = [figures.sign(draws, density) for _ in range(5)]
    z = draws.between(6, 12)
    while z < _FURTHEST:
        side = draws.pick((-1, 1))
        x = side * (street.half + draws.between(0.25, 0.6))
        post = draws.pick(lamps + posts)
        panels.append(Panel(post, POLE, x, z, mirrored=side > 0))
        if draws.chance(0.65):
            sign = draws.pick(signs)
            y = min(draws.between(2.0, 2.4), post.height_m - sign.height_m / 2)
            # a hand's breadth nearer, so that the plate hides its post
            panels.append(Panel(sign, SIGN, x, z - 0.1, y))
        z += draws.between(5, 16)
    return panels
