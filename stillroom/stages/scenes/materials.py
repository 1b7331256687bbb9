"""Colours of the ground, the houses and the sky, before light and haze."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.lighting import wall_light
from stillroom.stages.scenes.ray_casting import LEFT
from stillroom.stages.scenes.walls import HOUSE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.ray_casting import RayHits
    from stillroom.stages.scenes.scene import Scene

    Floats = NDArray[np.float32]
    Places = NDArray[np.intp]

_GROUND_TEXELS = 14.0
_WALL_TEXELS = 18.0


def sky_colour(scene: Scene, hits: RayHits, rows: Places, columns: Places) -> Floats:
    """Colour the sky: a gradient with clouds, (n, 3)."""
    light = scene.light
    down = hits.down[rows].astype(np.float32)
    across = hits.across[columns].astype(np.float32)
    climb = np.clip(-down * np.float32(2.2), 0, 1)[:, None]
    haze, sky = np.array(light.haze, np.float32), np.array(light.sky, np.float32)
    colour = haze + (sky - haze) * climb
    # clouds lie on a ceiling: they shrink towards the horizon
    flat = np.float32(26) / (np.float32(0.12) - down)
    footprint = np.maximum(flat * flat / (np.float32(40) * hits.pose.focal), 0.01)
    start = np.float32(37.0 * (scene.key[1] % 31))
    cover = scene.smooth.sample(across * flat + start, flat, footprint.astype(np.float32))
    cover = np.clip((cover + np.float32(light.clouds)) * np.float32(1.8), 0, 1)[:, None]
    white = np.minimum(haze + np.float32(0.06), 1)
    return np.asarray(colour + (white - colour) * cover * np.float32(0.8), np.float32)


def ground_colour(scene: Scene, hits: RayHits, rows: Places, columns: Places) -> Floats:
    """Colour asphalt, its marking, kerbs and slabs, (n, 3)."""
    street, pose = scene.street, hits.pose
    ahead = hits.depth[rows, columns]
    x = (pose.x + hits.across[columns] * ahead).astype(np.float32)
    z = (pose.z + ahead).astype(np.float32)
    wide = (ahead / pose.focal).astype(np.float32)  # metres under one pixel, across
    deep = (ahead * ahead / (pose.focal * pose.y)).astype(np.float32)  # and along
    texels = np.float32(_GROUND_TEXELS)
    coarse = np.maximum(wide, deep * np.float32(0.4)) * texels
    start = np.float32(19.0 * (scene.key[1] % 53))
    grain = scene.rough.sample(x * texels + start, z * texels, coarse)
    stains = scene.smooth.sample(x * 4 + start, z * 1.6, coarse * np.float32(0.3))
    road = hits.label[rows, columns] == 2
    base = np.where(
        road[:, None], np.array(street.road, np.float32), np.array(street.pavement, np.float32)
    )
    tone = 1 + 2 * (grain * np.float32(street.grain) + stains * np.float32(street.stains))
    joints = np.maximum(_joint(x, street.slab, wide), _joint(z, street.slab, deep))
    kerb = _stripe(np.abs(x) - np.float32(street.half + 0.1), 0.1, wide)
    tone = tone * np.where(road, 1, 1 - np.float32(0.3) * joints + np.float32(0.25) * kerb)
    paint = _marking(scene, x, z, wide, deep) * road * np.clip(1.1 - 2 * street.paint + grain, 0, 1)
    colour = base * tone[:, None].astype(np.float32)
    return np.asarray(colour + (np.float32(0.8) - colour) * paint[:, None], np.float32)


def wall_colour(scene: Scene, hits: RayHits, surface: int, rows: Places, columns: Places) -> Floats:
    """Colour facades with windows and shops, and hedges; lit, (n, 3)."""
    walls, pose = scene.walls[surface - LEFT], hits.pose
    sign = -1 if surface == LEFT else 1
    ahead = hits.depth[rows, columns]
    z = pose.z + ahead
    block = walls.block(z)
    high = (pose.y - hits.down[rows] * ahead).astype(np.float32)
    along = (z - walls.edges[block]).astype(np.float32)
    tall = (ahead / pose.focal).astype(np.float32)
    long = (ahead * ahead / (pose.focal * (scene.street.wall - sign * pose.x))).astype(np.float32)
    texels = np.float32(_WALL_TEXELS)
    coarse = np.maximum(tall, long * np.float32(0.4)) * texels
    offset = walls.offset[block]
    grain = scene.rough.sample(along * texels + offset, high * texels, coarse)
    stains = scene.smooth.sample(along * 5 + offset, high * 3, coarse * np.float32(0.3))
    house = walls.kind[block] == HOUSE
    colour = walls.colour[block]
    shop = house & (high < walls.floor[block])
    colour = np.where(shop[:, None], walls.shop[block], colour)
    storey = high / walls.floor[block]
    bay = along / walls.bay[block]
    share = walls.window[block]
    pane = _pane(bay, share[:, 0], long / walls.bay[block])
    pane = pane * _pane(storey, share[:, 1], tall / walls.floor[block])
    pane = pane * house * (high < walls.top[block] - 0.4)
    lit = ((np.floor(storey) * 13 + np.floor(bay) * 7 + offset) % 5).astype(np.float32) * 0.14
    glass = walls.glass[block] * (0.75 + lit)[:, None]
    tone = 1 + np.where(house, 0.10 * grain + 0.14 * stains, 0.55 * grain + 0.3 * stains)
    colour = colour * tone[:, None]
    colour = colour + (glass - colour) * pane[:, None]
    return np.asarray(colour * wall_light(scene, sign), np.float32)


def _marking(scene: Scene, x: Floats, z: Floats, wide: Floats, deep: Floats) -> Floats:
    """Return the share of road paint: middle line, parking lines, a zebra before the junction."""
    street = scene.street
    dash = np.clip((1.5 - np.abs(z % 6 - 3)) / np.maximum(deep, 0.01) + 0.5, 0, 1)
    paint = _stripe(np.abs(x), 0.07, wide) * np.where(deep > 3, 0.5, dash)
    parking = _stripe(np.abs(x) - np.float32(street.half - 2.3), 0.05, wide)
    start, end = street.junction
    crossing = (z > start - 4) & (z < end + 4)
    paint = np.where(crossing, 0, np.maximum(paint, parking * np.float32(0.8)))
    zebra = (z > start - 3.6) & (z < start - 1.0)
    bars = np.clip((0.25 - np.abs(x % 1 - 0.5)) / np.maximum(wide, 0.01) + 0.5, 0, 1)
    return np.asarray(np.where(zebra, bars, paint), np.float32)


def _stripe(off: Floats, half: float, footprint: Floats) -> Floats:
    """Return the share of a pixel in a stripe of half width `half`, `off` metres away."""
    near = np.clip((half - np.abs(off)) / np.maximum(footprint, 1e-3) + 0.5, 0, 1)
    return np.asarray(near * np.minimum(1, 2 * half / np.maximum(footprint, 1e-3)), np.float32)


def _joint(place: Floats, period: float, footprint: Floats) -> Floats:
    """Return the share of a pixel in the joints between slabs."""
    off = np.abs(place % period - np.float32(period / 2)) - np.float32(period / 2)
    return _stripe(off, 0.02, footprint)


def _pane(phase: Floats, share: Floats, footprint: Floats) -> Floats:
    """Return the share of a pixel in glass that takes the middle `share` of each period."""
    off = np.abs(phase - np.floor(phase) - np.float32(0.5))
    sharp = np.clip((share / 2 - off) / np.maximum(footprint, 1e-3) + 0.5, 0, 1)
    blurred = np.clip(footprint * 2 - 0.6, 0, 1)  # bays smaller than a pixel: their mean
    return np.asarray(sharp + (share - sharp) * blurred, np.float32)
