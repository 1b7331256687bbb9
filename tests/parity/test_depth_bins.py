"""depth_bins against the formula, in float64 NumPy, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.models.task_heads import DepthHead
from stillroom.stages.train.losses.depth_bins import depth_bins
from stillroom.storage_specs.errors import ArtifactError

LOW, HIGH, BINS = 0.5, 8.0, 5
CENTRES = DepthHead(bins=BINS, low=LOW, high=HIGH).log_centres()


def reference(student, depth, alpha, mask):
    """Bins by their borders, not by their centres."""
    borders = np.geomspace(LOW, HIGH, BINS + 1)
    total, counted = 0.0, 0
    for b, y, x in np.ndindex(student.shape[0], *student.shape[2:]):
        metres = depth[b, 0, y, x]
        if not mask[b, 0, y, x] or not np.isfinite(metres) or metres <= 0:
            continue
        right = min(max(int(np.searchsorted(borders, metres)) - 1, 0), BINS - 1)
        scores = student[b, :, y, x]
        partition = math.log(sum(math.exp(score) for score in scores))
        for k, score in enumerate(scores):
            total -= math.exp(-alpha * (right - k) ** 2) * (score - partition)
        counted += 1
    return total / counted


@pytest.fixture
def sample():
    rng = np.random.default_rng(5)
    depth = rng.uniform(0.2, 12, (2, 1, 4, 6))  # beyond the bins on both sides
    depth[rng.random(depth.shape) < 0.2] = 0
    depth[0, 0, 0, :3] = np.nan, np.inf, -2
    return rng.normal(0, 2, (2, BINS, 4, 6)), depth, rng.random((2, 1, 4, 6)) < 0.8


@pytest.mark.parametrize("alpha", [0.2, 1.5])
def test_it_is_the_formula(sample, alpha):
    student, depth, mask = sample
    found = depth_bins(
        *map(torch.from_numpy, (student, depth)),
        log_centres=CENTRES,
        alpha=alpha,
        mask=torch.from_numpy(mask),
    )
    assert found.item() == pytest.approx(reference(student, depth, alpha, mask), rel=1e-10)


def test_a_steep_weight_is_the_cross_entropy_of_the_right_bin(sample):
    student, depth = torch.from_numpy(sample[0]), torch.full((2, 1, 4, 6), 8.0).double()
    found = depth_bins(student, depth, log_centres=CENTRES, alpha=1e3)
    assert found.item() == pytest.approx(-student.log_softmax(1)[:, -1].mean().item(), rel=1e-12)


def test_what_lies_beyond_the_bins_is_the_nearest_of_them(sample):
    student = torch.from_numpy(sample[0])

    def value(metres):
        depth = torch.full((2, 1, 4, 6), metres, dtype=torch.float64)
        return depth_bins(student, depth, log_centres=CENTRES).item()

    assert value(0.01) == value(0.55)
    assert value(500.0) == value(7.5)
    assert value(0.55) != value(7.5)


def test_no_depth_gives_zero_that_can_be_differentiated(sample):
    student = torch.from_numpy(sample[0]).requires_grad_()
    for depth in (torch.zeros(2, 1, 4, 6), torch.full((2, 1, 4, 6), torch.nan)):
        value = depth_bins(student, depth, log_centres=CENTRES)
        value.backward()
        assert value.item() == 0
    assert student.grad.equal(torch.zeros_like(student))


def test_the_gradient_is_that_of_the_value_and_half_precision_is_computed_in_float32(sample):
    student, depth = (torch.from_numpy(part) for part in sample[:2])

    def value(logits):
        return depth_bins(logits, depth, log_centres=CENTRES)

    assert torch.autograd.gradcheck(value, (student.clone().requires_grad_(),))
    assert value(student.half()).equal(value(student.half().float()))


@pytest.mark.parametrize(
    ("student", "depth"), [((2, 4, 4, 6), (2, 1, 4, 6)), ((2, 5, 4, 6), (2, 1, 8, 6))]
)
def test_other_bins_and_sizes_are_refused_naming_both(student, depth):
    with pytest.raises(ArtifactError, match=r"they must be \(B, 5, H, W\) and \(B, 1, H, W\)"):
        depth_bins(torch.zeros(student), torch.ones(depth), log_centres=CENTRES)
