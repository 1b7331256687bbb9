"""The exact optical flow between two frames of a scene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.ray_casting import FIRST_PANEL, SKY, RayHits, cast_rays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.scene import Scene

_BEHIND = 0.05


def flow_between(
    scene: Scene, time: int, other: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Compute the flow from `time` to `other`, before or after it, and which targets are visible.

    Returns:
        float32 (2, H, W): u to the right, v down, in pixels.
        bool (H, W): True where all four pixels around the target show the same surface and label.
    """
    now, then = cast_rays(scene, time), cast_rays(scene, other)
    column, row = _targets(scene, now, then)
    u = column - np.arange(scene.width)[None, :]
    v = row - np.arange(scene.height)[:, None]
    return np.stack([u, v]).astype(np.float32), _visible(now, then, column, row)


def _targets(
    scene: Scene, now: RayHits, then: RayHits
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (column, row) in the other frame of the point at each pixel's centre."""
    steps = then.time - now.time
    sky = now.surface == SKY
    ahead = np.where(sky, 1.0, now.depth)
    # the sky lies at infinity: it follows the image plane's shift alone
    x = now.across[None, :] * ahead + np.where(sky, 0.0, now.pose.x - then.pose.x)
    y = now.down[:, None] * ahead + np.where(sky, 0.0, then.pose.y - now.pose.y)
    z = ahead + np.where(sky, 0.0, now.pose.z - then.pose.z)
    for index in now.panels:
        panel = scene.panels[index]
        if not (panel.vx or panel.vz or panel.stride):
            continue
        here = now.surface == FIRST_PANEL + index
        x[here] += panel.vx * steps
        z[here] += panel.vz * steps
        if panel.stride:
            drop = panel.texture.height_m - (now.pose.y - (now.down[:, None] * ahead)[here])
            x[here] += (panel.lean(then.time) - panel.lean(now.time)) * (drop + panel.y)
    z = np.maximum(z, _BEHIND)
    pose = then.pose
    return (
        pose.middle[0] + pose.focal * x / z - 0.5,
        pose.middle[1] + pose.focal * y / z - 0.5,
    )


def _visible(
    now: RayHits, then: RayHits, column: NDArray[np.float64], row: NDArray[np.float64]
) -> NDArray[np.bool_]:
    height, width = now.surface.shape
    left, top = np.floor(column), np.floor(row)
    visible = (left >= 0) & (top >= 0) & (left <= width - 1) & (top <= height - 1)
    left = np.where(visible, left, 0).astype(np.intp)
    top = np.where(visible, top, 0).astype(np.intp)
    # a target exactly on the last row or column has no neighbour there and needs none
    right = np.minimum(left + 1, width - 1)
    bottom = np.minimum(top + 1, height - 1)
    visible &= (column <= width - 1) & (row <= height - 1)
    for rows, columns in ((top, left), (top, right), (bottom, left), (bottom, right)):
        visible &= then.surface[rows, columns] == now.surface
        visible &= then.label[rows, columns] == now.label
    return np.asarray(visible, np.bool_)
