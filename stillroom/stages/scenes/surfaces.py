"""How far away each pixel's surface is and which way it faces, exactly: every surface is a plane.

Camera axes: x to the right, y down, z forward. The camera looks along the street and pans by a
shift of its image plane, so that these are the scene's axes but for the sign of y.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.ray_casting import FIRST_PANEL, GROUND, LEFT, RIGHT, cast_rays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.scene import Scene

FARTHEST = 1000.0  # metres; what lies beyond counts as sky


def depth_and_normals(scene: Scene, time: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return depth in metres (H, W) and unit normals (3, H, W) of a frame, 0 in the sky."""
    hits = cast_rays(scene, time)
    depth = np.where(hits.depth <= FARTHEST, hits.depth, 0).astype(np.float32)
    facing = np.zeros((FIRST_PANEL + len(scene.panels), 3), np.float32)
    facing[GROUND], facing[LEFT], facing[RIGHT] = (0, -1, 0), (1, 0, 0), (-1, 0, 0)
    for index, panel in enumerate(scene.panels):
        facing[FIRST_PANEL + index] = (panel.side, 0, 0) if panel.side else (0, 0, -1)
    normals = facing[hits.surface].transpose(2, 0, 1) * (depth > 0)
    return depth, np.ascontiguousarray(normals)
