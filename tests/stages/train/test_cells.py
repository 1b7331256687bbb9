"""Pixels to cells: against the views' own sampling, and a mean by loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillroom.stages.geometry import apply_field
from stillroom.stages.train.cells import at_centres, cell_means
from stillroom.stages.view import identity_view

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
    assert torch.allclose(at_centres(values, stride), expected, atol=1e-6)


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_centres_and_means_are_one_where_a_field_is_linear(stride):
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(24.0), indexing="ij")
    linear = (0.3 * x - 0.7 * y + 2)[None, None]
    assert torch.allclose(at_centres(linear, stride), cell_means(linear, stride), atol=1e-5)


def test_a_centre_keeps_to_one_motion_where_a_mean_makes_up_a_third():
    flow = torch.zeros(1, 2, 8, 16)
    flow[:, :, :, 5:] = 8.0  # what moves begins within a cell of pixels 4 to 7
    assert set(at_centres(flow, 4).unique().tolist()) == {0.0, 8.0}
    assert set(cell_means(flow, 4).unique().tolist()) == {0.0, 6.0, 8.0}


@ragged
@pytest.mark.parametrize("stride", [1, 3, 4])
def test_a_mean_is_over_the_pixels_that_the_image_has(size, stride):
    values = field(size, seed=1)
    found = cell_means(values, stride)
    assert found.shape[2:] == (-(-size[0] // stride), -(-size[1] // stride))
    for b, c, y, x in np.ndindex(*found.shape):
        pixels = values[b, c, y * stride : (y + 1) * stride, x * stride : (x + 1) * stride]
        assert found[b, c, y, x].item() == pytest.approx(pixels.mean().item())
