"""probability_l2 against the formula, in float64 NumPy, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.probability_l2 import probability_l2


def distribution(logits):
    exponentials = [math.exp(z) for z in logits]
    return [value / sum(exponentials) for value in exponentials]


def reference(student, teacher, mask=None):
    batch, classes, height, width = student.shape
    total, counted = 0.0, 0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                if mask is not None and not mask[b, 0, y, x]:
                    continue
                p, q = distribution(teacher[b, :, y, x]), distribution(student[b, :, y, x])
                for c in range(classes):
                    total += (q[c] - p[c]) ** 2
                counted += 1
    return total / counted


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula(masked):
    rng = np.random.default_rng(7)
    student, teacher = rng.normal(0, 3, (2, 5, 4, 7)), rng.normal(0, 4, (2, 5, 4, 7))
    mask = rng.random((2, 1, 4, 7)) < 0.6 if masked else None
    found = probability_l2(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        mask=None if mask is None else torch.from_numpy(mask),
    )
    assert found.item() == pytest.approx(reference(student, teacher, mask), rel=1e-12)


def test_two_confident_answers_that_differ_are_two_apart():
    student = torch.tensor([90.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    teacher = torch.tensor([0.0, 0.0, 90.0]).reshape(1, 3, 1, 1)
    assert probability_l2(student, teacher).item() == pytest.approx(2)


def test_a_constant_added_to_a_pixel_changes_nothing():
    student, teacher = torch.randn(2, 2, 4, 3, 3, dtype=torch.float64)
    shift = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    found = probability_l2(student + shift, teacher - 2 * shift)
    assert found.item() == pytest.approx(probability_l2(student, teacher).item(), rel=1e-10)
