"""pixelwise_kl against the formula, in float64 NumPy, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.storage_specs.errors import ConfigError


def distribution(logits, temperature):
    exponentials = [math.exp(z / temperature) for z in logits]
    return [value / sum(exponentials) for value in exponentials]


def reference(student, teacher, temperature, direction, mask=None):
    batch, classes, height, width = student.shape
    total, counted = 0.0, 0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                if mask is not None and not mask[b, 0, y, x]:
                    continue
                p = distribution(teacher[b, :, y, x], temperature)
                q = distribution(student[b, :, y, x], temperature)
                if direction == "student_teacher":
                    p, q = q, p
                total += sum(p[c] * math.log(p[c] / q[c]) for c in range(classes))
                counted += 1
    return temperature**2 * total / counted


@pytest.fixture
def sample():
    rng = np.random.default_rng(5)
    return (
        rng.normal(0, 3, (2, 5, 4, 7)),
        rng.normal(0, 4, (2, 5, 4, 7)),
        rng.random((2, 1, 4, 7)) < 0.6,
    )


@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula(sample, temperature, direction, masked):
    student, teacher, mask = sample
    expected = reference(student, teacher, temperature, direction, mask if masked else None)
    found = pixelwise_kl(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        temperature=temperature,
        direction=direction,
        mask=torch.from_numpy(mask) if masked else None,
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_the_teacher_is_the_target_unless_told_otherwise(sample):
    student, teacher, _ = sample
    found = pixelwise_kl(torch.from_numpy(student), torch.from_numpy(teacher)).item()
    assert found == pytest.approx(reference(student, teacher, 1.0, "teacher_student"))
    assert found != pytest.approx(reference(student, teacher, 1.0, "student_teacher"), rel=0.01)


def test_the_two_directions_are_each_other_with_the_roles_exchanged(sample):
    student, teacher, mask = (torch.from_numpy(part) for part in sample)
    one = pixelwise_kl(student, teacher, direction="student_teacher", temperature=2, mask=mask)
    other = pixelwise_kl(teacher, student, temperature=2, mask=mask)
    assert one.item() == pytest.approx(other.item(), rel=1e-12)


def test_a_constant_added_to_a_pixel_changes_nothing(sample):
    student, teacher, _ = (torch.from_numpy(part) for part in sample)
    shift = torch.randn(2, 1, 4, 7, dtype=torch.float64)
    expected = pixelwise_kl(student, teacher, temperature=2)
    found = pixelwise_kl(student + shift, teacher - 3 * shift, temperature=2)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)


def test_scaling_logits_and_temperature_together_leaves_only_the_square(sample):
    student, teacher, _ = (torch.from_numpy(part) for part in sample)
    expected = 9 * pixelwise_kl(student, teacher, temperature=2)
    found = pixelwise_kl(3 * student, 3 * teacher, temperature=6)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)


def test_confident_logits_stay_finite():
    student = torch.tensor([120.0, 0.0, -120.0]).reshape(1, 3, 1, 1).requires_grad_()
    loss = pixelwise_kl(student, -student.detach())
    loss.backward()
    assert loss.item() == pytest.approx(240)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_must_be_above_zero(sample, temperature):
    student, teacher, _ = (torch.from_numpy(part) for part in sample)
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        pixelwise_kl(student, teacher, temperature=temperature)


def test_an_unknown_direction_is_refused(sample):
    student, teacher, _ = (torch.from_numpy(part) for part in sample)
    with pytest.raises(ConfigError, match="'teacher_student' or 'student_teacher', got 'both'"):
        pixelwise_kl(student, teacher, direction="both")


# standardised logits


def z_scores(logits):
    batch, classes, height, width = logits.shape
    out = np.zeros_like(logits)
    for b, y, x in np.ndindex(batch, height, width):
        pixel = logits[b, :, y, x]
        mean = sum(pixel) / classes
        deviation = math.sqrt(sum((z - mean) ** 2 for z in pixel) / classes)
        out[b, :, y, x] = [(z - mean) / deviation for z in pixel]
    return out


@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
@pytest.mark.parametrize("masked", [False, True])
def test_standardised_it_is_the_formula_of_the_z_scores(sample, direction, masked):
    student, teacher, mask = sample
    expected = reference(
        z_scores(student), z_scores(teacher), 0.5, direction, mask if masked else None
    )
    found = pixelwise_kl(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        temperature=0.5,
        direction=direction,
        standardise=True,
        mask=torch.from_numpy(mask) if masked else None,
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_standardised_any_scale_and_shift_of_a_pixel_costs_nothing(sample):
    _, teacher, _ = (torch.from_numpy(part) for part in sample)
    scale = torch.rand(2, 1, 4, 7, dtype=torch.float64) * 5 + 0.1
    shift = torch.randn(2, 1, 4, 7, dtype=torch.float64)
    assert pixelwise_kl(scale * teacher + shift, teacher, standardise=True).item() == pytest.approx(
        0, abs=1e-14
    )
    assert pixelwise_kl(scale * teacher + shift, teacher).item() > 0.1


def test_standardised_the_gradient_is_that_of_the_value(sample):
    student, teacher, mask = (torch.from_numpy(part) for part in sample)
    assert torch.autograd.gradcheck(
        lambda z: pixelwise_kl(z, teacher, standardise=True, temperature=2, mask=mask),
        (student.requires_grad_(),),
    )


@pytest.mark.parametrize("level", [0.0, 1e4, 0.1])
def test_a_pixel_whose_logits_are_all_the_same_has_no_z_score_and_no_gradient(level):
    student = torch.randn(1, 5, 2, 2)
    student[0, :, 1, 1] = level
    student.requires_grad_()
    loss = pixelwise_kl(student, torch.randn(1, 5, 2, 2), standardise=True)
    loss.backward()
    assert loss.isfinite()
    assert student.grad[0, :, 1, 1].eq(0).all()
    assert student.grad[0, :, 0, 0].abs().max() > 0


def test_two_standardised_classes_are_refused():
    with pytest.raises(ConfigError, match="standardise needs 3 classes or more, got 2"):
        pixelwise_kl(torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3), standardise=True)
