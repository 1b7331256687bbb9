"""One clip's world: a street, its light, the drive along it, and everything that stands in it.

The ground is the plane y = 0, the houses are two upright planes beside the street, and every
other thing is a flat panel. A ray meets each of them at a point that is known exactly, so labels,
depth and motion need no approximation.

Axes in metres: x to the right, y up, z along the street. Time counts frames, 0.1 s apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.draws import Draws, wave
from stillroom.stages.scenes.figures import LEAVES, skyline, vary
from stillroom.stages.scenes.street import Street, make_street
from stillroom.stages.scenes.textures import Album, Tile, make_album, noise_tiles
from stillroom.stages.scenes.things import Panel, ends, furnish
from stillroom.stages.scenes.walls import STREET_END, Walls, build_walls

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.easel import Colour

CLASSES = (
    "sky",
    "building",
    "road",
    "pavement",
    "tree",
    "pole",
    "sign",
    "car",
    "pedestrian",
)
DRAWING = 1
"""Raised whenever a change here changes any byte: it is part of the source's identity."""


@dataclass(frozen=True)
class Pose:
    """The camera at one moment.

    Attributes:
        x: metres right of the street's middle.
        y: metres above the ground.
        z: metres along the street.
        middle: (column, row) in pixels of what lies straight ahead.
        focal: focal length in pixels.
    """

    x: float
    y: float
    z: float
    middle: tuple[float, float]
    focal: float


@dataclass(frozen=True)
class Drive:
    """The camera's path: forward, swaying, and panning by a shift of the image plane."""

    start: Pose
    speed: float
    sway: float
    pan: float
    bob: float
    period: float
    phase: float

    def at(self, time: int) -> Pose:
        """The pose at a frame."""
        turn = time / self.period + self.phase
        start = self.start
        column = start.middle[0] + self.pan * wave(turn)
        row = start.middle[1] + self.bob * wave(3.7 * turn)
        return Pose(
            start.x + self.sway * wave(0.6 * turn),
            start.y,
            start.z + self.speed * time,
            (column, row),
            start.focal,
        )


@dataclass(frozen=True)
class Light:
    """Sun, sky and the camera's answer to them.

    Attributes:
        tint: the light's colour; its size is the exposure.
        ambient: share of light that reaches shadows.
        sun: share that does not; 0 under an overcast sky.
        side: -1 the sun stands on the left, 1 on the right.
        steepness: height over ground distance of a ray of sun.
        slant: metres along z that a shadow shifts for each metre across.
        fog: metres at which haze and thing count alike.
        sky: colour overhead; haze: colour at the horizon, and of fog.
        clouds: -1 clear .. 1 covered.
        noise: amplitude of the sensor's noise, 0..255 scale.
        soft: how many times the picture is softened.
    """

    tint: Colour
    ambient: float
    sun: float
    side: int
    steepness: float
    slant: float
    fog: float
    sky: Colour
    haze: Colour
    clouds: float
    noise: float
    soft: int


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that decides a clip's frames; `pictures` tells each panel's place in `album`."""

    key: tuple[int, int]
    height: int
    width: int
    drive: Drive
    light: Light
    street: Street
    walls: tuple[Walls, Walls]
    panels: tuple[Panel, ...]
    pictures: NDArray[np.intp]
    album: Album
    rough: Tile
    smooth: Tile


@lru_cache(maxsize=8)  # tens of MB each on a large canvas
def build_scene(seed: int, clip: int, height: int, width: int) -> Scene:
    """Make a clip's world. It depends on the arguments alone, and so does every frame of it."""
    rough, smooth = noise_tiles(seed)
    light = _light(Draws(seed, clip, 2))
    street = make_street(Draws(seed, clip, 3))
    drive = _drive(Draws(seed, clip, 4), street, height, width)
    leaf = Draws(seed, clip, 5).pick(LEAVES)
    walls = Draws(seed, clip, 6)
    left, right = build_walls(walls, street, leaf), build_walls(walls, street, leaf)
    density = min(max(drive.start.focal / 5.0, 14.0), 90.0)
    far = skyline(Draws(seed, clip, 7), smooth, vary(Draws(seed, clip, 8), leaf, 0.04))
    panels = tuple(
        Panel(picture, CLASSES.index(name), x=0.0, z=STREET_END + ahead)
        for picture, name, ahead in zip(far, ("building", "tree"), (80.0, 60.0), strict=True)
    )
    tiles = (rough, smooth)
    panels += ends(Draws(seed, clip, 11), street, left, -1, tiles)
    panels += ends(Draws(seed, clip, 12), street, right, 1, tiles)
    panels += furnish(Draws(seed, clip, 9), street, drive.speed, density, tiles, leaf)
    distinct = {id(panel.picture): panel.picture for panel in panels}
    places = {name: place for place, name in enumerate(distinct)}
    return Scene(
        key=(seed, clip),
        height=height,
        width=width,
        drive=drive,
        light=light,
        street=street,
        walls=(left, right),
        panels=panels,
        pictures=np.array([places[id(panel.picture)] for panel in panels], np.intp),
        album=make_album(list(distinct.values())),
        rough=rough,
        smooth=smooth,
    )


def _light(draws: Draws) -> Light:
    sunny = draws.chance(0.55)
    exposure = draws.between(0.9, 1.35) if draws.chance(0.8) else draws.between(0.55, 0.85)
    warmth = draws.between(-0.1, 0.14)
    sun = draws.between(0.35, 0.6) if sunny else draws.between(0.0, 0.12)
    grey = draws.between(0.72, 0.95)
    haze = (grey + 0.5 * warmth, grey, grey - 0.4 * warmth)
    blue = (0.32, 0.52, 0.82) if sunny else (grey * 0.8, grey * 0.84, grey * 0.88)
    return Light(
        tint=(exposure * (1 + warmth), exposure, exposure * (1 - warmth)),
        ambient=1.0 - sun + 0.1,
        sun=sun,
        side=draws.pick((-1, 1)),
        steepness=draws.between(0.6, 2.2),
        slant=draws.between(-0.8, 0.8),
        fog=draws.between(250, 900) if draws.chance(0.75) else draws.between(70, 160),
        sky=vary(draws, blue, 0.06),
        haze=haze,
        clouds=draws.between(-0.7, 0.3) if sunny else draws.between(0.3, 1.0),
        noise=draws.between(2.0, 6.0) / exposure,
        soft=1 if draws.chance(0.75) else 2,
    )


def _drive(draws: Draws, street: Street, height: int, width: int) -> Drive:
    focal = draws.between(0.8, 1.05) * max(width, 1.25 * height)
    lane = (street.half - 2.2) * draws.between(0.35, 0.6) * draws.pick((-1.0, 1.0))
    middle = (
        width * draws.between(0.4, 0.6),
        height * draws.between(0.38, 0.52),
    )
    start = Pose(lane, draws.between(1.2, 2.1), 0.0, middle, focal)
    return Drive(
        start,
        speed=draws.between(0.1, 0.8),
        sway=draws.between(0.0, 0.35),
        pan=width * draws.between(0.0, 0.07),
        bob=height * draws.between(0.0, 0.008),
        period=draws.between(14, 40),
        phase=draws.unit(),
    )
