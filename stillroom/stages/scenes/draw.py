"""Draw a frame: cast rays, then colour by materials, light, haze, and the camera's noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stillroom.stages.scenes.lighting import ground_light, panel_light
from stillroom.stages.scenes.materials import ground_colour, sky_colour, wall_colour
from stillroom.stages.scenes.ray_casting import FIRST_PANEL, GROUND, LEFT, RIGHT, SKY, cast_rays
from stillroom.stages.scenes.rng import Rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.ray_casting import RayHits
    from stillroom.stages.scenes.scene import Light, Scene

    Floats = NDArray[np.float32]


class Drawing(NamedTuple):
    """A frame: uint8 (H, W, 3) RGB and uint8 (H, W)."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


def draw(scene: Scene, time: int, *, noise: bool = True) -> Drawing:
    """Draw one frame, with or without the noise of the camera's sensor."""
    hits = cast_rays(scene, time)
    colour = np.empty((*hits.label.shape, 3), np.float32)
    for surface in (SKY, GROUND, LEFT, RIGHT):
        rows, columns = np.nonzero(hits.surface == surface)
        if rows.size:
            colour[rows, columns] = _surface(scene, hits, surface, rows, columns)
    _paint_panels(scene, hits, colour)
    _add_haze(scene.light, hits, colour)
    colour *= np.array(scene.light.tint, np.float32) * np.float32(255)
    for _ in range(scene.light.soft):
        colour = _soften(colour)
    if noise:
        colour += _sensor_noise(scene, time)
    # clip, then round half up: truncation of a positive number is the same everywhere
    image = (np.clip(colour, 0, 255) + np.float32(0.5)).astype(np.uint8)
    return Drawing(image, hits.label)


def _surface(
    scene: Scene, hits: RayHits, surface: int, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> Floats:
    if surface == SKY:
        return sky_colour(scene, hits, rows, columns)
    if surface == GROUND:
        colour = ground_colour(scene, hits, rows, columns)
        return colour * ground_light(scene, hits, rows, columns)[:, None]
    return wall_colour(scene, hits, surface, rows, columns)


def _paint_panels(scene: Scene, hits: RayHits, colour: Floats) -> None:
    rows, columns = np.nonzero(hits.surface >= FIRST_PANEL)
    if rows.size == 0:
        return
    panel = (hits.surface[rows, columns] - FIRST_PANEL).astype(np.intp)
    light = np.zeros(len(scene.panels), np.float32)
    for index in hits.panels:
        light[index] = panel_light(scene, scene.panels[index], hits.time)
    texture = scene.textures[panel]
    wide = (hits.depth[rows, columns] / hits.pose.focal).astype(np.float32)
    colours = scene.atlas.colour(texture, hits.row[rows, columns], hits.column[rows, columns], wide)
    colour[rows, columns] = colours * light[panel][:, None]


def _add_haze(light: Light, hits: RayHits, colour: Floats) -> None:
    depth = hits.depth.astype(np.float32)
    clear = np.float32(light.fog) / (np.where(hits.surface == SKY, 0, depth) + light.fog)
    haze = np.array(light.haze, np.float32)
    colour -= haze
    colour *= clear[:, :, None].astype(np.float32)
    colour += haze


def _soften(colour: Floats) -> Floats:
    """Blur over 3 x 3 pixels by binomial weights; the border keeps its values."""
    out = colour.copy()
    out[1:-1] = (colour[:-2] + colour[1:-1] * 2 + colour[2:]) * np.float32(0.25)
    soft = out.copy()
    soft[:, 1:-1] = (out[:, :-2] + out[:, 1:-1] * 2 + out[:, 2:]) * np.float32(0.25)
    return soft


def _sensor_noise(scene: Scene, time: int) -> Floats:
    """Draw triangular noise, its own in every frame."""
    count = scene.height * scene.width * 3
    octets = Rng(*scene.key, 10, time).octets(2 * count).astype(np.float32)
    noise = (octets[:count] - octets[count:]) * np.float32(scene.light.noise / 104.0)
    return noise.reshape(scene.height, scene.width, 3)
