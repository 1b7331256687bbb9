"""Which surface each pixel's ray meets first, how far away, and of which class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.walls import HOUSE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.scene import Pose, Scene
    from stillroom.stages.scenes.things import Panel

    Doubles = NDArray[np.float64]

SKY, GROUND, LEFT, RIGHT, FIRST_PANEL = 0, 1, 2, 3, 4
_SKY, _BUILDING, _ROAD, _PAVEMENT, _TREE = 0, 1, 2, 3, 4
NEAR = 1.2
"""Metres in front of the camera before which nothing is drawn."""


@dataclass(frozen=True, eq=False)
class Cast:
    """One frame's geometry.

    Attributes:
        time: the frame.
        pose: the camera.
        across: float64 (W,), metres right for each metre ahead, of each column's ray.
        down: float64 (H,), metres down for each metre ahead, of each row's ray.
        depth: float64 (H, W), metres ahead; inf in the sky.
        surface: int16 (H, W): SKY, GROUND, LEFT, RIGHT, or FIRST_PANEL + index of the panel.
        label: uint8 (H, W).
        row, column: float32 (H, W), where a panel's picture is met, in texels; 0 elsewhere.
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


def cast(scene: Scene, time: int) -> Cast:
    """Cast one ray through each pixel's centre."""
    pose = scene.drive.at(time)
    across: Doubles = (np.arange(scene.width, dtype=np.float64) + 0.5 - pose.middle[0]) / pose.focal
    down: Doubles = (np.arange(scene.height, dtype=np.float64) + 0.5 - pose.middle[1]) / pose.focal
    shape = (scene.height, scene.width)
    found = Cast(
        time,
        pose,
        across,
        down,
        np.full(shape, np.inf),
        np.zeros(shape, np.int16),
        np.full(shape, _SKY, np.uint8),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
        [],
    )
    _meet_ground(scene, found)
    for surface, sign in ((LEFT, -1), (RIGHT, 1)):
        _meet_wall(scene, found, surface, sign)
    for index, panel in enumerate(scene.panels):
        _meet_panel(found, panel, index)
    return found


def _meet_ground(scene: Scene, found: Cast) -> None:
    street = scene.street
    first = int(np.searchsorted(found.down, 1e-4))
    ahead = found.pose.y / found.down[first:, None]  # (rows, 1)
    x = found.pose.x + found.across[None, :] * ahead
    z = found.pose.z + ahead
    crossing = (z > street.junction[0]) & (z < street.junction[1])
    road = (np.abs(x) < street.half) | crossing
    found.depth[first:] = ahead
    found.surface[first:] = GROUND
    found.label[first:] = np.where(road, _ROAD, _PAVEMENT)


def _meet_wall(scene: Scene, found: Cast, surface: int, sign: int) -> None:
    towards = found.across * sign > 1e-3
    columns = np.flatnonzero(towards)
    if columns.size == 0:
        return
    walls = scene.walls[surface - LEFT]
    ahead = (sign * scene.street.wall - found.pose.x) / found.across[columns]
    z = found.pose.z + ahead
    top = walls.profile(z)
    high = found.pose.y - found.down[:, None] * ahead[None, :]
    rows, places = np.nonzero((high >= 0) & (high < top[None, :]))
    at = (rows, columns[places])
    found.depth[at] = ahead[places]
    found.surface[at] = surface
    label = np.where(walls.kind[walls.block(z)] == HOUSE, _BUILDING, _TREE)
    found.label[at] = label[places]


def _meet_panel(found: Cast, panel: Panel, index: int) -> None:
    box = _box(found, panel)
    if box is None:
        return
    top, bottom, left, right = box
    part = (slice(top, bottom), slice(left, right))
    row, column, ahead = _texels(found, panel, *part)
    height, width = panel.picture.mask.shape
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    inside = inside & (ahead > NEAR) & (ahead <= found.depth[part])
    # outside texels are looked up at 0 and dropped by `inside`
    places = np.where(inside, row, 0).astype(np.intp) * width
    places += np.where(inside, column, 0).astype(np.intp)
    hit = inside & panel.picture.mask.ravel()[places]
    if not hit.any():
        return
    np.copyto(found.depth[part], ahead, where=hit)
    np.copyto(found.row[part], row, where=hit, casting="same_kind")
    np.copyto(found.column[part], column, where=hit, casting="same_kind")
    found.surface[part][hit] = FIRST_PANEL + index
    found.label[part][hit] = panel.label
    found.panels.append(index)


def _box(found: Cast, panel: Panel) -> tuple[int, int, int, int] | None:
    """The image rows and columns that a panel can reach; None when it cannot be seen."""
    pose, picture = found.pose, panel.picture
    x, z = panel.foot(found.time)
    near = z - pose.z
    if panel.side == 0:
        if near <= NEAR:
            return None
        reach = picture.width_m / 2 + abs(panel.stride)
        ends = [(x - reach - pose.x) / near, (x + reach - pose.x) / near]
    else:
        far = near + picture.width_m
        if far <= NEAR or (x - pose.x) * panel.side >= 0:
            return None
        near = max(near, NEAR)
        ends = sorted(((x - pose.x) / near, (x - pose.x) / far))
    high = (pose.y - panel.y - picture.height_m) / near
    low = (pose.y - panel.y) / near
    rows, columns = len(found.down), len(found.across)
    top = int(pose.middle[1] + pose.focal * min(high, 0 if panel.side else high)) - 1
    bottom = int(pose.middle[1] + pose.focal * max(low, 0 if panel.side else low)) + 2
    left = int(pose.middle[0] + pose.focal * ends[0]) - 1
    right = int(pose.middle[0] + pose.focal * ends[1]) + 2
    box = (max(top, 0), min(bottom, rows), max(left, 0), min(right, columns))
    return box if box[0] < box[1] and box[2] < box[3] else None


def _texels(
    found: Cast, panel: Panel, rows: slice, columns: slice
) -> tuple[Doubles, Doubles, Doubles]:
    """Where a panel's picture is met by the rays of some rows and columns.

    Returns:
        row, column: in texels, 0 at the picture's top left edge; both broadcast to (rows, columns).
        ahead: metres, broadcasts likewise.
    """
    pose, picture = found.pose, panel.picture
    x, z = panel.foot(found.time)
    across, down = found.across[None, columns], found.down[rows, None]
    if panel.side == 0:
        ahead = np.full((1, 1), z - pose.z)
        along = pose.x + across * ahead - x + picture.width_m / 2
    else:
        ahead = (x - pose.x) / np.where(across == 0, 1e-9, across)
        along = ahead - (z - pose.z)
    high = pose.y - down * ahead - panel.y
    if panel.stride:
        along = along - panel.lean(found.time) * (picture.height_m - high)
    if panel.mirrored:
        along = picture.width_m - along
    density = picture.density
    return (picture.height_m - high) * density, along * density, ahead
