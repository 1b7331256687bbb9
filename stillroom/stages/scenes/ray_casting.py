"""Cast a ray through each pixel: which surface it meets first, how far away, of which class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes import classes
from stillroom.stages.scenes.walls import HOUSE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.panels import Panel
    from stillroom.stages.scenes.scene import Pose, Scene

    Doubles = NDArray[np.float64]

SKY, GROUND, LEFT, RIGHT, FIRST_PANEL = 0, 1, 2, 3, 4
NEAR = 1.2  # metres in front of the camera before which nothing is drawn


@dataclass(frozen=True, eq=False)
class RayHits:
    """The geometry of one frame.

    Attributes:
        time: the frame.
        pose: the camera.
        across: float64 (W,), metres right for each metre ahead, of each column's ray.
        down: float64 (H,), metres down for each metre ahead, of each row's ray.
        depth: float64 (H, W), metres ahead; inf in the sky.
        surface: int16 (H, W): SKY, GROUND, LEFT, RIGHT, or FIRST_PANEL + index of the panel.
        label: uint8 (H, W).
        row, column: float32 (H, W), where a panel's texture is met, in texels; 0 elsewhere.
        panels: indices of the panels met; some may be hidden by others.
    """

    time: int
    pose: Pose
    across: Doubles
    down: Doubles
    depth: Doubles
    surface: NDArray[np.int16]
    label: NDArray[np.uint8]
    row: NDArray[np.float32]
    column: NDArray[np.float32]
    panels: list[int]


def cast_rays(scene: Scene, time: int) -> RayHits:
    """Cast one ray through each pixel's centre."""
    pose = scene.drive.at(time)
    across: Doubles = (np.arange(scene.width, dtype=np.float64) + 0.5 - pose.middle[0]) / pose.focal
    down: Doubles = (np.arange(scene.height, dtype=np.float64) + 0.5 - pose.middle[1]) / pose.focal
    shape = (scene.height, scene.width)
    depth, surface = np.full(shape, np.inf), np.zeros(shape, np.int16)
    label = np.full(shape, classes.SKY, np.uint8)
    row, column = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    hits = RayHits(time, pose, across, down, depth, surface, label, row, column, [])
    _hit_ground(scene, hits)
    _hit_wall(scene, hits, LEFT, -1)
    _hit_wall(scene, hits, RIGHT, 1)
    for index, panel in enumerate(scene.panels):
        _hit_panel(hits, panel, index)
    return hits


def _hit_ground(scene: Scene, hits: RayHits) -> None:
    street = scene.street
    first = int(np.searchsorted(hits.down, 1e-4))
    ahead = hits.pose.y / hits.down[first:, None]  # (rows, 1)
    x = hits.pose.x + hits.across[None, :] * ahead
    z = hits.pose.z + ahead
    crossing = (z > street.junction[0]) & (z < street.junction[1])
    road = (np.abs(x) < street.half) | crossing
    hits.depth[first:] = ahead
    hits.surface[first:] = GROUND
    hits.label[first:] = np.where(road, classes.ROAD, classes.PAVEMENT)


def _hit_wall(scene: Scene, hits: RayHits, surface: int, sign: int) -> None:
    towards = hits.across * sign > 1e-3
    columns = np.flatnonzero(towards)
    if columns.size == 0:
        return
    walls = scene.walls[surface - LEFT]
    ahead = (sign * scene.street.wall - hits.pose.x) / hits.across[columns]
    z = hits.pose.z + ahead
    top = walls.profile(z)
    high = hits.pose.y - hits.down[:, None] * ahead[None, :]
    rows, places = np.nonzero((high >= 0) & (high < top[None, :]))
    at = (rows, columns[places])
    hits.depth[at] = ahead[places]
    hits.surface[at] = surface
    label = np.where(walls.kind[walls.block(z)] == HOUSE, classes.BUILDING, classes.TREE)
    hits.label[at] = label[places]


def _hit_panel(hits: RayHits, panel: Panel, index: int) -> None:
    box = _image_box(hits, panel)
    if box is None:
        return
    top, bottom, left, right = box
    part = (slice(top, bottom), slice(left, right))
    row, column, ahead = _texels(hits, panel, *part)
    height, width = panel.texture.mask.shape
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    inside = inside & (ahead > NEAR) & (ahead <= hits.depth[part])
    # outside texels are looked up at 0 and dropped by `inside`
    places = np.where(inside, row, 0).astype(np.intp) * width
    places += np.where(inside, column, 0).astype(np.intp)
    hit = inside & panel.texture.mask.ravel()[places]
    if not hit.any():
        return
    np.copyto(hits.depth[part], ahead, where=hit)
    np.copyto(hits.row[part], row, where=hit, casting="same_kind")
    np.copyto(hits.column[part], column, where=hit, casting="same_kind")
    hits.surface[part][hit] = FIRST_PANEL + index
    hits.label[part][hit] = panel.label
    hits.panels.append(index)


def _image_box(hits: RayHits, panel: Panel) -> tuple[int, int, int, int] | None:
    """Return the rows and columns that a panel can reach; None when it cannot be seen."""
    pose, texture = hits.pose, panel.texture
    x, z = panel.foot(hits.time)
    near = z - pose.z
    if panel.side == 0:
        if near <= NEAR:
            return None
        reach = texture.width_m / 2 + abs(panel.stride)
        ends = [(x - reach - pose.x) / near, (x + reach - pose.x) / near]
    else:
        far = near + texture.width_m
        if far <= NEAR or (x - pose.x) * panel.side >= 0:
            return None
        near = max(near, NEAR)
        ends = sorted(((x - pose.x) / near, (x - pose.x) / far))
    high = (pose.y - panel.y - texture.height_m) / near
    low = (pose.y - panel.y) / near
    rows, columns = len(hits.down), len(hits.across)
    top = int(pose.middle[1] + pose.focal * min(high, 0 if panel.side else high)) - 1
    bottom = int(pose.middle[1] + pose.focal * max(low, 0 if panel.side else low)) + 2
    left = int(pose.middle[0] + pose.focal * ends[0]) - 1
    right = int(pose.middle[0] + pose.focal * ends[1]) + 2
    box = (max(top, 0), min(bottom, rows), max(left, 0), min(right, columns))
    return box if box[0] < box[1] and box[2] < box[3] else None


def _texels(
    hits: RayHits, panel: Panel, rows: slice, columns: slice
) -> tuple[Doubles, Doubles, Doubles]:
    """Find where the rays of some rows and columns meet a panel's texture.

    Returns:
        row, column: in texels, 0 at the texture's top left edge; both broadcast to (rows, columns).
        ahead: metres, broadcasts likewise.
    """
    pose, texture = hits.pose, panel.texture
    x, z = panel.foot(hits.time)
    across, down = hits.across[None, columns], hits.down[rows, None]
    if panel.side == 0:
        ahead = np.full((1, 1), z - pose.z)
        along = pose.x + across * ahead - x + texture.width_m / 2
    else:
        ahead = (x - pose.x) / np.where(across == 0, 1e-9, across)
        along = ahead - (z - pose.z)
    high = pose.y - down * ahead - panel.y
    if panel.stride:
        along = along - panel.lean(hits.time) * (texture.height_m - high)
    if panel.mirrored:
        along = texture.width_m - along
    density = texture.density
    return (texture.height_m - high) * density, along * density, ahead
