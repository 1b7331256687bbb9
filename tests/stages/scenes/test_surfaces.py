"""Depth and normals of drawn frames, against the points in space that the depth stands for."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from stillroom.stages.scenes.classes import CLASSES
from stillroom.stages.scenes.scene import build_scene
from stillroom.stages.sources.demo import DemoConfig, DemoSource

SIZE = {"height": 96, "width": 144}
CONFIG = DemoConfig(clips=3, frames_per_clip=3, targets=("depth", "normals"), **SIZE)


def points(config: DemoConfig, clip: int, time: int, depth: np.ndarray) -> np.ndarray:
    """What the pixels show, (3, H, W): metres to the right, down and ahead of the camera."""
    pose = build_scene(config.seed, clip, config.height, config.width).drive.at(time)
    rows, columns = np.indices(depth.shape) + 0.5
    across, down = (columns - pose.middle[0]) / pose.focal, (rows - pose.middle[1]) / pose.focal
    return depth.astype(np.float64) * np.stack([across, down, np.ones_like(down)])


@pytest.mark.parametrize("clip", range(3))
def test_neighbours_of_one_direction_lie_in_one_plane_that_faces_the_camera(clip: int) -> None:
    frame = DemoSource(CONFIG).load(3 * clip + 1)
    depth, normals = frame.targets["depth"], frame.targets["normals"]
    sky = frame.label == CLASSES.index("sky")
    assert 0 < sky.sum() < sky.size
    assert not depth[sky].any()
    assert (depth[~sky] > 1).mean() > 0.99
    np.testing.assert_array_equal(np.linalg.norm(normals, axis=0), depth > 0)
    place = points(CONFIG, clip, 1, depth)
    assert ((place * normals).sum(0)[depth > 0] < 0).all()
    alike = (normals[:, :, 1:] == normals[:, :, :-1]).all(0) & (depth[:, 1:] * depth[:, :-1] > 0)
    apart = np.abs(((place[:, :, 1:] - place[:, :, :-1]) * normals[:, :, 1:]).sum(0))
    flat = apart < 1e-4 * depth[:, 1:]
    assert flat[alike].mean() > 0.95  # but where one panel stands before another
    assert len(np.unique(normals[:, depth > 0], axis=1).T) >= 3


def test_the_road_lies_as_far_below_the_camera_as_it_stands_high() -> None:
    frame = DemoSource(CONFIG).load(0)
    road = (frame.label == CLASSES.index("road")) & (frame.targets["depth"] > 0)
    low = points(CONFIG, 0, 0, frame.targets["depth"])[1][road]
    np.testing.assert_allclose(low, build_scene(0, 0, 96, 144).drive.at(0).y, rtol=1e-5)
    assert (frame.targets["normals"][:, road].T == (0, -1, 0)).all()


def test_targets_change_no_pixel_and_stand_in_the_identity_where_there_are_some() -> None:
    plain, both = DemoSource(DemoConfig(clips=1, **SIZE)), DemoSource(CONFIG)
    np.testing.assert_array_equal(plain.load(0).image, both.load(0).image)
    assert plain.load(0).targets == {}
    assert "targets" not in plain.identity()
    assert both.identity()["targets"] == ["depth", "normals"]


def test_frames_without_their_label_lack_the_further_targets_too() -> None:
    config = DemoConfig(clips=1, label_every=4, labelled=False, targets=("depth",), **SIZE)
    source = DemoSource(config)
    found = [source.load(index).targets["depth"].any() for index in range(8)]
    assert (
        found == [source.labelled(index) for index in range(8)] == [False, False, True, False] * 2
    )
    assert source.label_count() == 2
    with pytest.raises(ValidationError, match="each at most once"):
        DemoConfig(targets=("depth", "depth"))
