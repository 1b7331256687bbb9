"""Normals of planes of which depth is known exactly, and where there can be none."""

from __future__ import annotations

import numpy as np
import pytest

from stillroom.stages.scenes.classes import CLASSES
from stillroom.stages.scenes.scene import build_scene
from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.stages.sources.normals_of_depth import Camera, normals_of_depth

CAMERA = Camera(60.0, 70.0, 39.5, 30.0)
SIZE = (60, 80)
TOWARDS = np.array([0.3, -0.5, -np.sqrt(1 - 0.34)])


def plane(normal: np.ndarray, distance: float) -> np.ndarray:
    """Depth of the points P with normal . P = -distance."""
    rows, columns = np.indices(SIZE)
    rays = np.stack([(columns - 39.5) / 60.0, (rows - 30.0) / 70.0, np.ones(SIZE)])
    return (-distance / np.einsum("c,cyx->yx", normal, rays)).astype(np.float32)


@pytest.mark.parametrize("normal", [TOWARDS, np.array([0.0, 0, -1]), np.array([-0.6, 0, -0.8])])
def test_a_plane_has_its_normal_everywhere_also_around_holes(normal: np.ndarray) -> None:
    depth = plane(normal, 2.0)
    assert (depth > 0).all()
    depth[20:24, 30:34] = 0
    found = normals_of_depth(depth, CAMERA)
    known = found.any(0)
    assert not known[20:24, 30:34].any()
    assert known[8:18, 8:-8].all()
    assert known[16:28, 26:38].sum() == 12 * 12 - 16
    np.testing.assert_allclose(found[:, known], np.tile(normal, (known.sum(), 1)).T, atol=1e-3)


def test_there_is_none_at_an_edge_and_where_most_of_the_window_is_empty() -> None:
    near, far = plane(TOWARDS, 1.0), plane(TOWARDS, 2.0)
    columns = np.arange(SIZE[1])
    known = normals_of_depth(np.where(columns < 40, near, far), CAMERA).any(0)
    assert not known[:, 36:44].any()
    assert known[10:-10, 8:30].all()
    assert known[10:-10, 50:-8].all()
    alone = np.zeros(SIZE, np.float32)
    alone[30:35, 40:45] = 2
    assert not normals_of_depth(alone, CAMERA).any()
    assert not normals_of_depth(np.zeros(SIZE, np.float32), CAMERA).any()


def test_they_are_the_exact_ones_of_a_drawn_street_away_from_edges() -> None:
    config = DemoConfig(clips=1, height=192, width=288, targets=("depth", "normals"))
    frame = DemoSource(config).load(0)
    pose = build_scene(0, 0, 192, 288).drive.at(0)
    # rays go through the middle of pixels
    camera = Camera(pose.focal, pose.focal, pose.middle[0] - 0.5, pose.middle[1] - 0.5)
    found = normals_of_depth(frame.targets["depth"], camera)
    road = (frame.label == CLASSES.index("road")) & found.any(0)
    assert road.mean() > 0.2
    cosine = (found * frame.targets["normals"]).sum(0)[road]
    assert np.median(cosine) > 0.99999
    assert (cosine > 0.99).mean() > 0.95
