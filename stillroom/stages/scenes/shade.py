"""Sun and shadow on the ground and on what stands there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.cast import Cast
    from stillroom.stages.scenes.scene import Scene
    from stillroom.stages.scenes.things import Panel

    Floats = NDArray[np.float32]


def ground_light(
    scene: Scene, found: Cast, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> Floats:
    """How much light reaches the ground at each pixel, (n,)."""
    ahead = found.depth[rows, columns]
    x = found.pose.x + found.across[columns] * ahead
    z = found.pose.z + ahead
    light = scene.light
    level = light.ambient + light.sun * (1 - _house_shadow(scene, x, z))
    under = _panel_shadows(scene, found)
    return (level * (1 - under[rows, columns])).astype(np.float32)


def panel_light(scene: Scene, panel: Panel, time: int) -> float:
    """How much light reaches a panel."""
    light = scene.light
    if light.sun < 0.15 or panel.z > 160:
        return light.ambient + 0.7 * light.sun
    x, z = panel.foot(time)
    shadow = float(_house_shadow(scene, np.array([x]), np.array([z]))[0])
    faces = 0.75 if panel.side == 0 else 1.0 if panel.side == light.side else 0.25
    return light.ambient + light.sun * faces * (1 - shadow)


def wall_light(scene: Scene, sign: int) -> float:
    """How much light reaches the houses on the left (-1) or right (1) of the street."""
    light = scene.light
    return light.ambient + light.sun * (0.9 if sign != light.side else 0.0)


def _house_shadow(
    scene: Scene, x: NDArray[np.float64], z: NDArray[np.float64]
) -> NDArray[np.float64]:
    """0 in the sun .. 1 in the shadow of the houses on the sun's side."""
    light = scene.light
    if light.sun < 0.15:
        return np.zeros(x.shape)
    walls = scene.walls[0 if light.side < 0 else 1]
    away = scene.street.wall - light.side * x
    source = z + light.slant * away
    block = walls.block(source)
    top = np.where(walls.kind[block] == 2, 0.0, walls.top[block])
    return np.clip((top - away * light.steepness) * 1.5 + 0.5, 0, 1)


def _panel_shadows(scene: Scene, found: Cast) -> NDArray[np.float64]:
    """0..1 of the light that things take from the ground around their feet, (H, W)."""
    under: NDArray[np.float64] = np.zeros(found.depth.shape)
    pose = found.pose
    for panel in scene.panels:
        if panel.shadow is None:
            continue
        half, deep = panel.shadow
        x, z = panel.foot(found.time)
        middle = z + (panel.picture.width_m / 2 if panel.side else 0.0)
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
        ahead = pose.y / np.maximum(found.down[top:bottom, None], 1e-3)
        off = ((pose.x + found.across[None, left:right] * ahead - x) / half) ** 2
        off = off + ((pose.z + ahead - middle) / deep) ** 2
        part = under[top:bottom, left:right]
        np.maximum(part, np.clip(1.3 * (1 - off), 0, 0.62), out=part)
    return under
