"""adaptation against the formula, in float64 Python, position by position."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.stages.train.losses.adaptation import adaptation
from stillroom.storage_specs.errors import ConfigError


def length(vector, norm):
    return sum(abs(x) ** norm for x in vector) ** (1 / norm)


def reference(student, teacher, p, q, mask):
    batch, _, height, width = student.shape
    total, counted = 0.0, 0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                if not mask[b, 0, y, x]:
                    continue
                s, t = student[b, :, y, x], teacher[b, :, y, x]
                s = [each / length(s, q) for each in s]
                t = [each / length(t, q) for each in t]
                total += length([i - j for i, j in zip(s, t, strict=True)], p)
                counted += 1
    return total / counted


@pytest.fixture
def sample():
    rng = np.random.default_rng(3)
    return (
        rng.normal(0, 2, (2, 5, 3, 7)),
        rng.normal(1, 3, (2, 5, 3, 7)),
        rng.random((2, 1, 3, 7)) < 0.6,
    )


@pytest.mark.parametrize(("p", "q"), [(1, 2), (2, 2), (1, 1), (2, 1), (3, 2), (1.5, 2.5)])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula(sample, p, q, masked):
    student, teacher, mask = sample
    mask = mask if masked else np.ones_like(mask)
    found = adaptation(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        p=p,
        q=q,
        mask=torch.from_numpy(mask) if masked else None,
    )
    assert found.item() == pytest.approx(reference(student, teacher, p, q, mask), rel=1e-12)


def test_the_norms_are_1_and_2_unless_told_otherwise(sample):
    student, teacher, _ = (torch.from_numpy(part) for part in sample)
    assert adaptation(student, teacher).equal(adaptation(student, teacher, p=1, q=2))
    assert not adaptation(student, teacher).equal(adaptation(student, teacher, p=2, q=2))


@pytest.mark.parametrize(("p", "q"), [(1, 2), (2, 2), (2, 1), (1.5, 3)])
def test_the_gradient_is_that_of_the_value(sample, p, q):
    student, teacher, mask = (torch.from_numpy(part) for part in sample)
    assert torch.autograd.gradcheck(
        lambda x: adaptation(x, teacher, p=p, q=q, mask=mask), (student.requires_grad_(),)
    )


def test_how_long_a_vector_is_does_not_matter(sample):
    student, teacher, mask = (torch.from_numpy(part) for part in sample)
    expected = adaptation(student, teacher, mask=mask).item()
    longer = torch.rand(2, 1, 3, 7, dtype=torch.float64) * 50 + 0.1
    found = adaptation(student * longer, teacher / longer, mask=mask)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    scaled = adaptation(7 * student, student, mask=mask)
    assert scaled.item() == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("dims", [(2,), (3,), (2, 3)])
def test_mirroring_both_changes_nothing(sample, dims):
    student, teacher, _ = (torch.from_numpy(part) for part in sample)
    found = adaptation(student.flip(dims), teacher.flip(dims)).item()
    assert found == pytest.approx(adaptation(student, teacher).item(), rel=1e-12)


def test_opposite_directions_of_one_channel_are_2_apart():
    student = torch.tensor([3.0, 0, 0]).reshape(1, 3, 1, 1)
    assert adaptation(student, -5 * student).item() == pytest.approx(2)
    beside = torch.tensor([0.0, 4, 0]).reshape(1, 3, 1, 1)
    assert adaptation(student, beside, p=2).item() == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("rest", [0.0, 1e-9])
@pytest.mark.parametrize("p", [1, 2])
def test_a_vector_without_direction_stays_zero_and_gets_no_gradient(p, rest):
    student = torch.full((1, 4, 1, 2), rest)
    student[0, :, 0, 1] = torch.tensor([1.0, 2, 3, 4])
    teacher = torch.ones(1, 4, 1, 2)
    student.requires_grad_()
    value = adaptation(student, teacher, p=p)
    value.backward()
    unit = teacher[0, :, 0, 0] / 2
    there = student.detach()[0, :, 0, 1] / student.detach()[0, :, 0, 1].norm() - unit
    expected = (unit.norm(p) + there.norm(p)) / 2
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert student.grad[..., 0].eq(0).all()
    assert student.grad[..., 1].abs().max() > 0


def test_unit_vectors_are_so_long_or_0():
    features = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    features[0, :, 0, 0] = 0
    for norm in (1.0, 2.0, 3.0):
        found = torch.linalg.vector_norm(unit_vectors(features, norm=norm), norm, dim=1)
        expected = torch.ones(2, 3, 3, dtype=torch.float64)
        expected[0, 0, 0] = 0
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bad", [0, 0.5, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["p", "q"])
def test_an_exponent_that_is_no_norm_is_refused(sample, name, bad):
    student, teacher, _ = (torch.from_numpy(part) for part in sample)
    with pytest.raises(ConfigError, match=f"{name} must be a norm's exponent of at least 1, got"):
        adaptation(student, teacher, **{name: bad})
