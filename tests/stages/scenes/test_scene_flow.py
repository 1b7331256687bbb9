"""The flow is exact: it is held against the drawing itself, never against its own formula."""

from __future__ import annotations

import numpy as np
import pytest

from stillroom.stages.scenes.draw import draw
from stillroom.stages.scenes.ray_casting import (
    FIRST_PANEL,
    GROUND,
    LEFT,
    RIGHT,
    SKY,
    RayHits,
    cast_rays,
)
from stillroom.stages.scenes.scene import build_scene
from stillroom.stages.scenes.scene_flow import flow_between
from stillroom.stages.sources.demo import DemoConfig, DemoSource

HEIGHT, WIDTH = 96, 144
CLIPS = [0, 1, 4, 6]


def targets(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(column, row) that each pixel goes to."""
    return np.arange(WIDTH)[None, :] + flow[0], np.arange(HEIGHT)[:, None] + flow[1]


def warp(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Backward bilinear warp with the border clamped, in float64; values (H, W, C)."""
    column, row = targets(flow.astype(np.float64))
    column, row = np.clip(column, 0, WIDTH - 1), np.clip(row, 0, HEIGHT - 1)
    left = np.minimum(np.floor(column).astype(int), WIDTH - 2)
    top = np.minimum(np.floor(row).astype(int), HEIGHT - 2)
    fx, fy = (column - left)[..., None], (row - top)[..., None]
    above = values[top, left] * (1 - fx) + values[top, left + 1] * fx
    below = values[top + 1, left] * (1 - fx) + values[top + 1, left + 1] * fx
    return above * (1 - fy) + below * fy


@pytest.mark.parametrize("clip", CLIPS)
def test_labels_warped_back_equal_the_labels_before_on_every_visible_pixel(clip: int) -> None:
    scene = build_scene(0, clip, HEIGHT, WIDTH)
    for time in (0, 5):
        flow, seen = flow_between(scene, time, time + 1)
        before, after = cast_rays(scene, time).label, cast_rays(scene, time + 1).label
        column, row = targets(flow)
        nearest = after[
            np.clip(np.rint(row), 0, HEIGHT - 1).astype(int),
            np.clip(np.rint(column), 0, WIDTH - 1).astype(int),
        ]
        np.testing.assert_array_equal(nearest[seen], before[seen])
        one_hot = np.eye(9)[after]
        assert (warp(one_hot, flow).argmax(axis=2) == before)[seen].all()
        assert 0.5 < seen.mean() < 1.0


@pytest.mark.parametrize("clip", CLIPS)
def test_the_frame_warped_back_equals_the_frame_before_on_visible_pixels(clip: int) -> None:
    scene = build_scene(0, clip, HEIGHT, WIDTH)
    flow, seen = flow_between(scene, 2, 3)
    before = draw(scene, 2, noise=False).image.astype(np.float64)
    after = draw(scene, 3, noise=False).image.astype(np.float64)
    error = np.abs(warp(after, flow) - before).max(axis=2)[seen]
    still = np.abs(after - before).max(axis=2)[seen]
    # what remains is resampling of fine texture, the lens's softness at outlines, and shadows
    # that travel with their cars
    assert np.median(error) < 2.0
    assert np.percentile(error, 90) < 12.0
    assert error.mean() < 0.65 * still.mean()
    assert _error_of(after, before, seen, -flow) > still.mean()


def _error_of(after: np.ndarray, before: np.ndarray, seen: np.ndarray, flow: np.ndarray) -> float:
    return float(np.abs(warp(after, flow) - before).max(axis=2)[seen].mean())


def materials(found: RayHits, column: np.ndarray, row: np.ndarray, wall: float) -> dict:
    """World coordinates that a ray through any point of the image meets, by surface."""
    pose = found.pose
    across = (column + 0.5 - pose.middle[0]) / pose.focal
    down = (row + 0.5 - pose.middle[1]) / pose.focal
    met = {}
    for surface in (GROUND, LEFT, RIGHT):
        side = wall if surface == RIGHT else -wall
        with np.errstate(divide="ignore", invalid="ignore"):
            ahead = pose.y / down if surface == GROUND else (side - pose.x) / across
            met[surface] = np.stack(
                [pose.x + across * ahead, pose.y - down * ahead, pose.z + ahead]
            )
    return met


@pytest.mark.parametrize("clip", CLIPS)
def test_rays_through_a_pixel_and_through_its_target_meet_the_same_point(clip: int) -> None:
    scene = build_scene(0, clip, HEIGHT, WIDTH)
    now, then = cast_rays(scene, 3), cast_rays(scene, 4)
    flow, _ = flow_between(scene, 3, 4)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    here = materials(now, columns, rows, scene.street.wall)
    column, row = targets(flow.astype(np.float64))
    there = materials(then, column, row, scene.street.wall)
    for surface in (GROUND, LEFT, RIGHT):
        where = (now.surface == surface) & (now.depth < 60)
        if where.any():
            # float32 flow: 1e-5 px; at 60 m a pixel spans up to 20 m of ground
            np.testing.assert_allclose(here[surface][:, where], there[surface][:, where], atol=2e-3)


@pytest.mark.parametrize("clip", CLIPS)
def test_a_panels_texel_is_found_again_at_its_target(clip: int) -> None:
    scene = build_scene(0, clip, HEIGHT, WIDTH)
    checked = 0
    for time in (0, 6):
        now, then = cast_rays(scene, time), cast_rays(scene, time + 1)
        flow, seen = flow_between(scene, time, time + 1)
        texels = np.stack([now.row, now.column], axis=2)
        again = warp(np.stack([then.row, then.column], axis=2).astype(np.float64), flow)
        facing = [FIRST_PANEL + i for i, panel in enumerate(scene.panels) if panel.side == 0]
        where = seen & np.isin(now.surface, facing)
        # rows and columns are affine in a facing panel's picture: interpolation is exact
        assert np.abs(texels - again)[where].max() < 2e-2
        checked += int(where.sum())
    assert checked > 200


@pytest.mark.parametrize("clip", CLIPS)
def test_a_cars_flank_is_met_at_the_same_spot_again(clip: int) -> None:
    scene = build_scene(0, clip, HEIGHT, WIDTH)
    now, then = cast_rays(scene, 3), cast_rays(scene, 4)
    flow, _ = flow_between(scene, 3, 4)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    column, row = targets(flow.astype(np.float64))
    checked = 0
    for index, panel in enumerate(scene.panels):
        where = now.surface == FIRST_PANEL + index
        if panel.side == 0 or not where.any():
            continue
        spots = []
        for found, x, y in ((now, columns, rows), (then, column, row)):
            pose = found.pose
            across = (x[where] + 0.5 - pose.middle[0]) / pose.focal
            down = (y[where] + 0.5 - pose.middle[1]) / pose.focal
            foot_x, foot_z = panel.foot(found.time)
            ahead = (foot_x - pose.x) / across
            spots.append(np.stack([pose.z + ahead - foot_z, pose.y - down * ahead]))
        close = now.depth[where] < 40
        np.testing.assert_allclose(spots[0][:, close], spots[1][:, close], atol=2e-3)
        checked += int(close.sum())
    assert checked > 20


def test_walking_legs_and_driving_cars_move_against_the_street() -> None:
    scene = build_scene(0, 0, HEIGHT, WIDTH)
    assert any(panel.stride for panel in scene.panels)
    assert any(panel.vz for panel in scene.panels)
    assert any(panel.side for panel in scene.panels)


def test_the_sky_moves_with_the_pan_alone() -> None:
    scene = build_scene(0, 2, HEIGHT, WIDTH)
    flow, _ = flow_between(scene, 1, 2)
    sky = cast_rays(scene, 1).surface == SKY
    now, then = scene.drive.at(1), scene.drive.at(2)
    for axis in (0, 1):
        shift = then.middle[axis] - now.middle[axis]
        np.testing.assert_allclose(flow[axis][sky], shift, atol=1e-5)


def test_nothing_that_leaves_the_frame_or_is_covered_counts_as_visible() -> None:
    scene = build_scene(0, 0, HEIGHT, WIDTH)
    flow, seen = flow_between(scene, 0, 1)
    column, row = targets(flow)
    outside = (column < 0) | (row < 0) | (column > WIDTH - 1) | (row > HEIGHT - 1)
    assert outside.any()
    assert not seen[outside].any()
    then = cast_rays(scene, 1)
    now = cast_rays(scene, 0)
    inside = ~outside
    nearest = then.surface[
        np.where(inside, np.rint(row), 0).astype(int),
        np.where(inside, np.rint(column), 0).astype(int),
    ]
    covered = inside & (nearest != now.surface)
    assert covered.any()
    assert not seen[covered].any()


def test_the_source_gives_the_flow_of_its_frames() -> None:
    source = DemoSource(DemoConfig(clips=2, frames_per_clip=3, height=HEIGHT, width=WIDTH))
    flow, seen = source.flow(4)
    expected, visible = flow_between(build_scene(0, 1, HEIGHT, WIDTH), 1, 2)
    assert (flow.dtype, seen.dtype) == (np.float32, np.bool_)
    np.testing.assert_array_equal(flow, expected)
    np.testing.assert_array_equal(seen, visible)
