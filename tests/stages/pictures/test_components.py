"""Maps of channels as three components: against the directions that they were made of."""

from __future__ import annotations

import numpy as np
import pytest

from stillroom.stages.pictures.components import component_pictures

AXES = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 7)))[0][:, :3]
SIZES = np.array([9.0, 4.0, 2.0])


def test_each_colour_is_a_component_and_all_frames_have_one_scale() -> None:
    rng = np.random.default_rng(1)
    parts = rng.uniform(-1, 1, (2, 8, 10, 3)) * SIZES  # uncorrelated, and of falling variance
    grids = [np.moveaxis(one @ AXES.T + 5, -1, 0).astype(np.float32) for one in parts]
    shown = [np.ones((32, 39), bool), np.ones((32, 39), bool)]
    painted = component_pictures(grids, shown, 4)
    assert [(one.shape, one.dtype) for one in painted] == [((32, 39, 3), np.uint8)] * 2
    cells = np.stack([one[1::4, 1::4] for one in painted]).astype(float)
    for colour in range(3):
        likeness = np.corrcoef(cells[..., colour].ravel(), parts[..., colour].ravel())[0, 1]
        assert abs(likeness) > 0.97
    assert cells.min() == 0
    assert cells.max() == 255


def test_padding_moves_no_colour() -> None:
    grid = np.random.default_rng(2).normal(size=(5, 8, 8)).astype(np.float32)
    shown = np.zeros((32, 32), bool)
    shown[:16] = True
    padded = grid.copy()
    padded[:, 4:] = 1e6
    found = [component_pictures([one], [shown], 4)[0][:16] for one in (grid, padded)]
    assert np.array_equal(*found)


@pytest.mark.parametrize("channels", [1, 2])
def test_few_channels_and_constant_ones_are_grey(channels: int) -> None:
    grid = np.random.default_rng(3).normal(size=(channels, 4, 4)).astype(np.float32)
    (painted,) = component_pictures([grid], [np.ones((16, 16), bool)], 4)
    assert len(np.unique(painted[..., 0])) > 8
    assert np.all(painted[..., channels:] == 128)
    (flat,) = component_pictures([np.ones_like(grid)], [np.ones((16, 16), bool)], 4)
    assert np.all(flat == 128)
