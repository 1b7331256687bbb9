"""The projector: W z + b at every cell, and nothing at all where it is not needed."""

from __future__ import annotations

import pytest
import torch

from stillroom.stages.train.loss_parts.projector import Projector
from stillroom.storage_specs.errors import ArtifactError, ConfigError


def test_each_cell_is_multiplied_by_one_matrix():
    projector = Projector(3, 5).double()
    student = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    weight, bias = (part.detach() for part in projector.parameters())
    projected = projector(student)
    assert projected.shape == (2, 5, 4, 6)
    for b in range(2):
        for y in range(4):
            for x in range(6):
                expected = weight[:, :, 0, 0] @ student[b, :, y, x] + bias
                torch.testing.assert_close(projected[b, :, y, x], expected)


@pytest.mark.parametrize(
    ("channels", "options", "shapes"),
    [
        ((3, 5), {}, [(5, 3, 1, 1), (5,)]),
        ((3, 5), {"bias": False}, [(5, 3, 1, 1)]),
        ((3, 5), {"only_where_needed": True}, [(5, 3, 1, 1), (5,)]),
        ((4, 4), {}, [(4, 4, 1, 1), (4,)]),
        ((4, 4), {"only_where_needed": True}, []),
    ],
)
def test_what_it_trains(channels, options, shapes):
    found = [tuple(part.shape) for part in Projector(*channels, **options).parameters()]
    assert found == shapes


def test_where_it_is_not_needed_the_map_goes_through_untouched():
    student = torch.randn(2, 4, 3, 3)
    assert Projector(4, 4, only_where_needed=True)(student) is student


def test_weights_follow_the_seed_and_come_back_from_a_state_dict():
    torch.manual_seed(3)
    one = Projector(3, 5)
    torch.manual_seed(3)
    same = Projector(3, 5)
    other = Projector(3, 5)
    student = torch.randn(1, 3, 2, 2)
    assert one(student).equal(same(student))
    assert not one(student).equal(other(student))
    other.load_state_dict(one.state_dict())
    assert one(student).equal(other(student))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_map_in_half_precision_is_projected_in_that_of_the_weights(dtype):
    projector = Projector(3, 5)
    student = torch.randn(1, 3, 2, 2).to(dtype)
    assert projector(student).equal(projector(student.float()))


@pytest.mark.parametrize("needed", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 4, 4), (4, 4, 4)])
def test_another_map_than_was_announced_is_refused(needed, shape):
    projector = Projector(4, 4, only_where_needed=needed)
    with pytest.raises(ArtifactError, match=r"takes a student map \(B, 4, H, W\), got"):
        projector(torch.zeros(shape))


@pytest.mark.parametrize("channels", [(0, 4), (4, 0), (-1, 3)])
def test_a_side_without_channels_is_refused(channels):
    with pytest.raises(ConfigError, match="at least 1 channel on each side"):
        Projector(*channels)
