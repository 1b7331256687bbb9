"""Sun and shadow on the ground and on what stands there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.walls import GAP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.panels import Panel
    from stillroom.stages.scenes.ray_casting import RayHits
    from stillroom.stages.scenes.scene import Scene

    Floats = NDArray[np.float32]


def ground_light(
    scene: Scene, hits: RayHits, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> Floats:
    """Return the light on the ground at each pixel, (n,)."""
    ahead = hits.depth[rows, columns]
    x = hits.pose.x + hits.across[columns] * ahead
    z = hits.pose.z + ahead
    light = scene.light
    level = light.ambient + light.sun * (1 - _house_shadow(scene, x, z))
    under = _panel_shadows(scene, hits)
    return (level * (1 - under[rows, columns])).astype(np.float32)


def panel_light(scene: Scene, panel: Panel, time: int) -> float:
    """Return the light on a panel."""
    light = scene.light
    if light.sun < 0.15 or panel.z > 160:
        return light.ambient + 0.7 * light.sun
    x, z = panel.foot(time)
    shadow = float(_house_shadow(scene, np.array([x]), np.array([z]))[0])
    faces = 0.75 if panel.side == 0 else 1.0 if panel.side == light.side else 0.25
    return light.ambient + light.sun * faces * (1 - shadow)


def wall_light(scene: Scene, sign: int) -> float:
    """Return the light on the houses on the left (-1) or right (1) of the street."""
    light = scene.light
    return light.ambient + light.sun * (0.9 if sign != light.side else 0.0)


def _house_shadow(
    scene: Scene, x: NDArray[np.float64], z: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return 0 in the sun .. 1 in the shadow of the houses on the sun's side."""
    light = scene.light
    if light.sun < 0.15:
        return np.zeros(x.shape)
    walls = scene.walls[0 if light.side < 0 else 1]
    away = scene.street.wall - light.side * x
    source = z + light.slant * away
    block = walls.block(source)
    top = np.where(walls.kind[block] == GAP, 0.0, walls.top[block])
    return np.clip((top - away * light.steepness) * 1.5 + 0.5, 0, 1)


def _panel_shadows(scene: Scene, hits: RayHits) -> NDArray[np.float64]:
    """Return the share of light that panels take from the ground around their feet, (H, W)."""
    under: NDArray[np.float64] = np.zeros(hits.depth.shape)
    pose = hits.pose
    for panel in scene.panels:
        if panel.shadow is None:
            continue
        half, deep = panel.shadow
        x, z = panel.foot(hits.time)
        middle = z + (panel.texture.width_m / 2 if panel.side else 0.0)
        near, far = middle - deep - pose.z, middle + deep - pose.z
        if far < 1.5 or near > 70:
            continue
        near = max(near, 1.0)
        top = max(int(pose.middle[1] + pose.focal * pose.y / far), 0)
        bottom = min(int(pose.middle[1] + pose.focal * pose.y / near) + 2, under.shape[0])
        edges = [(x + side * half - pose.x) / d for side in (-1, 1) for d in (near, far)]
        left = max(int(pose.middle[0] + pose.focal * min(edges)) - 1, 0)
        right = min(int(pose.middle[0] + pose.focal * max(edges)) + 2, under.shape[1])
        if top >= bottom or left >= right:
            continue
        ahead = pose.y / np.maximum(hits.down[top:bottom, None], 1e-3)
        off = ((pose.x + hits.across[None, left:right] * ahead - x) / half) ** 2
        off = off + ((pose.z + ahead - middle) / deep) ** 2
        part = under[top:bottom, left:right]
        np.maximum(part, np.clip(1.3 * (1 - off), 0, 0.62), out=part)
    return under
