"""A clip's scene: a street, its light, the camera's drive along it, and what stands in it.

The ground is the plane y = 0, the houses are two upright planes beside the street, and every
other object is a flat panel. A ray meets each of them at a point that is known exactly, so labels,
depth and flow need no approximation.

Axes in metres: x to the right, y up, z along the street. Time counts frames, 0.1 s apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.classes import BUILDING, TREE
from stillroom.stages.scenes.object_textures import LEAVES, paint_skyline, vary
from stillroom.stages.scenes.panels import Panel, gap_panels, object_panels
from stillroom.stages.scenes.rng import Rng, wave
from stillroom.stages.scenes.street import Street, make_street
from stillroom.stages.scenes.textures import NoiseTile, TextureAtlas, make_atlas, noise_tiles
from stillroom.stages.scenes.walls import STREET_END, Walls, build_walls

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.texture_painter import Colour

DRAWING = 1  # raised whenever a change here changes any byte: part of the source's identity


@dataclass(frozen=True)
class Pose:
    """The camera at one time.

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
        """Return the pose at a frame."""
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
    """Sun, sky and how the camera renders them.

    Attributes:
        tint: the light's colour; its size is the exposure.
        ambient: share of light that reaches shadows.
        sun: share that does not; 0 under an overcast sky.
        side: -1 the sun stands on the left, 1 on the right.
        steepness: height over ground distance of a ray of sun.
        slant: metres along z that a shadow shifts for each metre across.
        fog: metres at which haze and object have equal shares of a pixel.
        sky: colour overhead; haze: colour at the horizon, and of fog.
        clouds: -1 clear .. 1 covered.
        noise: amplitude of the sensor's noise, 0..255 scale.
        soft: how many times the texture is softened.
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
    """Everything that decides a clip's frames.

    Attributes:
        textures: the place of each panel's texture in `atlas`.
        rough, smooth: tiles of noise.
    """

    key: tuple[int, int]
    height: int
    width: int
    drive: Drive
    light: Light
    street: Street
    walls: tuple[Walls, Walls]
    panels: tuple[Panel, ...]
    textures: NDArray[np.intp]
    atlas: TextureAtlas
    rough: NoiseTile
    smooth: NoiseTile


@lru_cache(maxsize=8)  # tens of MB each on a large canvas
def build_scene(seed: int, clip: int, height: int, width: int) -> Scene:
    """Make a clip's scene. It depends on the arguments alone, and so does every frame of it."""
    rough, smooth = noise_tiles(seed)
    light = _light(Rng(seed, clip, 2))
    street = make_street(Rng(seed, clip, 3))
    drive = _drive(Rng(seed, clip, 4), street, height, width)
    leaf = Rng(seed, clip, 5).pick(LEAVES)
    walls = Rng(seed, clip, 6)
    left, right = build_walls(walls, street, leaf), build_walls(walls, street, leaf)
    density = min(max(drive.start.focal / 5.0, 14.0), 90.0)
    far = paint_skyline(Rng(seed, clip, 7), smooth, vary(Rng(seed, clip, 8), leaf, 0.04))
    panels = tuple(
        Panel(texture, label, x=0.0, z=STREET_END + ahead)
        for texture, label, ahead in zip(far, (BUILDING, TREE), (80.0, 60.0), strict=True)
    )
    tiles = (rough, smooth)
    panels += gap_panels(Rng(seed, clip, 11), street, left, -1, tiles)
    panels += gap_panels(Rng(seed, clip, 12), street, right, 1, tiles)
    panels += object_panels(Rng(seed, clip, 9), street, drive.speed, density, tiles, leaf)
    distinct = {id(panel.texture): panel.texture for panel in panels}
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
        textures=np.array([places[id(panel.texture)] for panel in panels], np.intp),
        atlas=make_atlas(list(distinct.values())),
        rough=rough,
        smooth=smooth,
    )


def _light(rng: Rng) -> Light:
    sunny = rng.chance(0.55)
    exposure = rng.between(0.9, 1.35) if rng.chance(0.8) else rng.between(0.55, 0.85)
    warmth = rng.between(-0.1, 0.14)
    sun = rng.between(0.35, 0.6) if sunny else rng.between(0.0, 0.12)
    grey = rng.between(0.72, 0.95)
    haze = (grey + 0.5 * warmth, grey, grey - 0.4 * warmth)
    blue = (0.32, 0.52, 0.82) if sunny else (grey * 0.8, grey * 0.84, grey * 0.88)
    return Light(
        tint=(exposure * (1 + warmth), exposure, exposure * (1 - warmth)),
        ambient=1.0 - sun + 0.1,
        sun=sun,
        side=rng.pick((-1, 1)),
        steepness=rng.between(0.6, 2.2),
        slant=rng.between(-0.8, 0.8),
        fog=rng.between(250, 900) if rng.chance(0.75) else rng.between(70, 160),
        sky=vary(rng, blue, 0.06),
        haze=haze,
        clouds=rng.between(-0.7, 0.3) if sunny else rng.between(0.3, 1.0),
        noise=rng.between(2.0, 6.0) / exposure,
        soft=1 if rng.chance(0.75) else 2,
    )


def _drive(rng: Rng, street: Street, height: int, width: int) -> Drive:
    focal = rng.between(0.8, 1.05) * max(width, 1.25 * height)
    lane = (street.half - 2.2) * rng.between(0.35, 0.6) * rng.pick((-1.0, 1.0))
    middle = (
        width * rng.between(0.4, 0.6),
        height * rng.between(0.38, 0.52),
    )
    start = Pose(lane, rng.between(1.2, 2.1), 0.0, middle, focal)
    return Drive(
        start,
        speed=rng.between(0.1, 0.8),
        sway=rng.between(0.0, 0.35),
        pan=width * rng.between(0.0, 0.07),
        bob=height * rng.between(0.0, 0.008),
        period=rng.between(14, 40),
        phase=rng.unit(),
    )
