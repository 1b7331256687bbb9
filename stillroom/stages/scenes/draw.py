"""Colour a cast frame: materials, light, haze, and the camera's softness and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.cast import FIRST_PANEL, GROUND, LEFT, RIGHT, SKY, cast
from stillroom.stages.scenes.draws import Draws
from stillroom.stages.scenes.materials import ground_colour, sky_colour, wall_colour
from stillroom.stages.scenes.shade import ground_light, panel_light

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.cast import Cast
    from stillroom.stages.scenes.scene import Light, Scene

    Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Drawing:
    """A finished frame.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        label: uint8 (H, W).
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


def draw(scene: Scene, time: int, *, noise: bool = True) -> Drawing:
    """Draw one frame; without `noise`, what the camera's sensor would see at its best."""
    found = cast(scene, time)
    colour = np.empty((*found.label.shape, 3), np.float32)
    for surface in (SKY, GROUND, LEFT, RIGHT):
        rows, columns = np.nonzero(found.surface == surface)
        if rows.size:
            colour[rows, columns] = _surface(scene, found, surface, rows, columns)
    _paint_panels(scene, found, colour)
    _add_haze(scene.light, found, colour)
    colour *= np.array(scene.light.tint, np.float32) * np.float32(255)
    for _ in range(scene.light.soft):
        colour = _soften(colour)
    if noise:
        colour += _sensor_noise(scene, time)
    # clip, then round half up: truncation of a positive number is the same everywhere
    image = (np.clip(colour, 0, 255) + np.float32(0.5)).astype(np.uint8)
    return Drawing(image, found.label)


def _surface(
    scene: Scene, found: Cast, surface: int, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> Floats:
    if surface == SKY:
        return sky_colour(scene, found, rows, columns)
    if surface == GROUND:
        colour = ground_colour(scene, found, rows, columns)
        return colour * ground_light(scene, found, rows, columns)[:, None]
    return wall_colour(scene, found, surface, rows, columns)


def _paint_panels(scene: Scene, found: Cast, colour: Floats) -> None:
    rows, columns = np.nonzero(found.surface >= FIRST_PANEL)
    if rows.size == 0:
        return
    panel = (found.surface[rows, columns] - FIRST_PANEL).astype(np.intp)
    light = np.zeros(len(scene.panels), np.float32)
    for index in found.panels:
        light[index] = panel_light(scene, scene.panels[index], found.time)
    picture = scene.pictures[panel]
    wide = (found.depth[rows, columns] / found.pose.focal).astype(np.float32)
    seen = scene.album.colour(picture, found.row[rows, columns], found.column[rows, columns], wide)
    colour[rows, columns] = seen * light[panel][:, None]


def _add_haze(light: Light, found: Cast, colour: Floats) -> None:
    depth = found.depth.astype(np.float32)
    clear = np.float32(light.fog) / (np.where(found.surface == SKY, 0, depth) + light.fog)
    haze = np.array(light.haze, np.float32)
    colour -= haze
    colour *= clear[:, :, None].astype(np.float32)
    colour += haze


def _soften(colour: Floats) -> Floats:
    """A binomial blur over 3 x 3 pixels; the border keeps its values."""
    out = colour.copy()
    out[1:-1] = (colour[:-2] + colour[1:-1] * 2 + colour[2:]) * np.float32(0.25)
    soft = out.copy()
    soft[:, 1:-1] = (out[:, :-2] + out[:, 1:-1] * 2 + out[:, 2:]) * np.float32(0.25)
    return soft


def _sensor_noise(scene: Scene, time: int) -> Floats:
    """Triangular noise, its own in every frame."""
    count = scene.height * scene.width * 3
    octets = Draws(*scene.key, 10, time).octets(2 * count).astype(np.float32)
    noise = (octets[:count] - octets[count:]) * np.float32(scene.light.noise / 104.0)
    return noise.reshape(scene.height, scene.width, 3)
