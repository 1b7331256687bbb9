"""Coarser grids: against the views' own sampling, and a mean by loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillroom.stages.geometry import apply_field
from stillroom.stages.train.loss_parts.downsample import downsample_at_centres, downsample_by_means
from stillroom.stages.view import identity_view
from stillroom.storage_specs.errors import ArtifactError

ragged = pytest.mark.parametrize("size", [(16, 24), (13, 22), (3, 5)])


def field(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 2, *size, generator=generator, dtype=torch.float64)


@ragged
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8])
def test_centres_are_those_of_a_view_of_the_whole_image(size, stride):
    values = field(size).float()
    expected = torch.stack(
        [apply_field(identity_view(size), one, stride=1, out_stride=stride) for one in values]
    )
    assert torch.allclose(downsample_at_centres(values, stride), expected, atol=1e-6)


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_centres_and_means_are_one_where_a_field_is_linear(stride):
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(24.0), indexing="ij")
    linear = (0.3 * x - 0.7 * y + 2)[None, None]
    assert torch.allclose(
        downsample_at_centres(linear, stride), downsample_by_means(linear, stride), atol=1e-5
    )


def test_a_centre_keeps_to_one_motion_where_a_mean_makes_up_a_third():
    flow = torch.zeros(1, 2, 8, 16)
    flow[:, :, :, 5:] = 8.0  # what moves begins within pixels 4 to 7
    assert set(downsample_at_centres(flow, 4).unique().tolist()) == {0.0, 8.0}
    assert set(downsample_by_means(flow, 4).unique().tolist()) == {0.0, 6.0, 8.0}


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [(5, 7), (6, 6), (1, 9), (13, 22)])
def test_a_mean_is_over_the_values_that_there_are(factor, size):
    values = np.random.default_rng(1).normal(size=(2, 3, *size))
    expected = np.zeros((2, 3, -(-size[0] // factor), -(-size[1] // factor)))
    for b, c, i, j in np.ndindex(expected.shape):
        below = [
            values[b, c, y, x]
            for y in range(i * factor, min((i + 1) * factor, size[0]))
            for x in range(j * factor, min((j + 1) * factor, size[1]))
        ]
        expected[b, c, i, j] = sum(below) / len(below)
    np.testing.assert_allclose(
        downsample_by_means(torch.from_numpy(values), factor).numpy(), expected
    )


def test_halves_are_averaged_in_float32():
    features = torch.full((1, 1, 2, 2), 2049.0).half()
    assert downsample_by_means(features, 2).dtype == torch.float32


def test_a_grid_is_not_made_finer():
    with pytest.raises(ArtifactError, match="at least 1, got 0"):
        downsample_by_means(torch.zeros(1, 1, 2, 2), 0)
