"""local_affinity against the formula, in float64, cell by cell and neighbour by neighbour."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.local_affinity import local_affinity
from stillroom.stages.train.losses.pairwise_affinity import AffinityGraph, pairwise_affinity


def cosine(a, b):
    lengths = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(v * w for v, w in zip(a, b, strict=True)) / lengths if lengths else 0.0


def reference(student, teacher, mask):
    batch, _, height, width = student.shape
    total, counted = 0.0, 0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                for ny in range(max(0, y - 1), min(height, y + 2)):
                    for nx in range(max(0, x - 1), min(width, x + 2)):
                        if (ny, nx) == (y, x) or not (mask[b, 0, y, x] and mask[b, 0, ny, nx]):
                            continue
                        one = cosine(student[b, :, y, x], student[b, :, ny, nx])
                        other = cosine(teacher[b, :, y, x], teacher[b, :, ny, nx])
                        total += (one - other) ** 2
                        counted += 1
    return total / counted


def sample(size=(4, 7)):
    rng = np.random.default_rng(11)
    mask = rng.random((2, 1, *size)) < 0.8
    mask[0, 0, :2, :2] = True
    return rng.normal(0, 3, (2, 5, *size)), rng.normal(1, 4, (2, 8, *size)), mask


@pytest.mark.parametrize("size", [(4, 7), (7, 4), (2, 2), (1, 5), (5, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula_whatever_the_channel_counts(size, masked):
    student, teacher, mask = sample(size)
    if not masked:
        mask = np.ones_like(mask)
    found = local_affinity(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        mask=torch.from_numpy(mask) if masked else None,
    )
    assert found.item() == pytest.approx(reference(student, teacher, mask), rel=1e-12)


def test_a_map_of_one_cell_has_no_neighbours_and_costs_nothing():
    student = torch.randn(2, 5, 1, 1, requires_grad=True)
    loss = local_affinity(student, torch.randn(2, 3, 1, 1))
    loss.backward()
    assert loss.item() == 0
    assert student.grad.eq(0).all()


def test_it_is_pairwise_affinity_of_near_cells_without_each_cell_with_itself():
    student, teacher, _ = (torch.from_numpy(part) for part in sample())
    near = pairwise_affinity(student, teacher, graphs=[AffinityGraph(patch=1, reach=1)]).item()
    neighbours = 2 * (4 * 6 + 3 * 7 + 2 * 3 * 6)  # across, down, two diagonals; both ways
    found = local_affinity(student, teacher).item()
    assert found == pytest.approx(near * (neighbours + 28) / neighbours, rel=1e-12)


def test_the_length_of_a_cell_does_not_matter_and_its_direction_does():
    student, teacher, mask = (torch.from_numpy(part) for part in sample())
    expected = local_affinity(student, teacher, mask=mask).item()
    lengths = torch.rand(2, 1, 4, 7, dtype=torch.float64) + 0.1
    found = local_affinity(lengths * student, teacher / lengths, mask=mask).item()
    assert found == pytest.approx(expected, rel=1e-12)
    assert local_affinity(student + 2, teacher, mask=mask).item() != pytest.approx(expected)


def test_cells_that_are_zero_are_like_no_other_and_stay_finite():
    student = torch.randn(1, 3, 3, 3, dtype=torch.float64)
    student[..., 1, 1] = 0
    student = student.requires_grad_()
    teacher = torch.randn(1, 3, 3, 3, dtype=torch.float64)
    loss = local_affinity(student, teacher)
    loss.backward()
    mask = np.ones((1, 1, 3, 3), dtype=bool)
    expected = reference(student.detach().numpy(), teacher.numpy(), mask)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert student.grad.abs().max() < 10
