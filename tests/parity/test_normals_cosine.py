"""normals_cosine against the formula, in float64 NumPy, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.normals_cosine import normals_cosine


@pytest.fixture
def sample():
    rng = np.random.default_rng(9)
    normals = rng.normal(size=(2, 3, 4, 5))
    normals[:, :, rng.random((4, 5)) < 0.3] = 0
    return rng.normal(size=(2, 3, 4, 5)), normals, rng.random((2, 1, 4, 5)) < 0.7


def test_it_is_the_formula(sample):
    student, normals, mask = sample
    costs = []
    for b, y, x in np.ndindex(2, 4, 5):
        ours, theirs = student[b, :, y, x], normals[b, :, y, x]
        if mask[b, 0, y, x] and theirs.any():
            angle = np.arctan2(np.linalg.norm(np.cross(ours, theirs)), ours @ theirs)
            costs.append(1 - np.cos(angle))
    found = normals_cosine(*map(torch.from_numpy, (student, normals)), mask=torch.from_numpy(mask))
    assert found.item() == pytest.approx(np.mean(costs), rel=1e-10)


def test_its_ends_are_0_and_2_and_its_gradient_is_that_of_the_value(sample):
    student, normals, mask = map(torch.from_numpy, sample)
    assert normals_cosine(2 * normals, normals).item() == pytest.approx(0, abs=1e-12)
    assert normals_cosine(-normals, normals).item() == pytest.approx(2)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: normals_cosine(s, normals, mask=mask), (student,))


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 0.0])
def test_no_normal_gives_zero_that_can_be_differentiated(sample, rubbish):
    student = torch.from_numpy(sample[0]).requires_grad_()
    value = normals_cosine(student, torch.full((2, 3, 4, 5), rubbish, dtype=torch.float64))
    value.backward()
    assert value.item() == 0
    assert student.grad.equal(torch.zeros_like(student))
