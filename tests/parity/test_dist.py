"""dist against the formula, by loops in float64: correlations over classes and over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.dist import dist
from stillroom.storage_specs.errors import ConfigError


def distribution(logits, temperature):
    exponentials = [math.exp(z / temperature) for z in logits]
    return [value / sum(exponentials) for value in exponentials]


def correlation(a, b, epsilon=0.0):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    product = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    size_a = math.sqrt(sum((x - mean_a) ** 2 for x in a))
    size_b = math.sqrt(sum((y - mean_b) ** 2 for y in b))
    return product / (size_a * size_b + epsilon)


def reference(student, teacher, temperature=1.0, beta=1.0, gamma=1.0, epsilon=0.0, mask=None):
    batch, classes, height, width = student.shape
    pixels = [
        (b, y, x)
        for b, y, x in np.ndindex(batch, height, width)
        if mask is None or mask[b, 0, y, x]
    ]
    q = [distribution(student[b, :, y, x], temperature) for b, y, x in pixels]
    p = [distribution(teacher[b, :, y, x], temperature) for b, y, x in pixels]
    inter = sum(1 - correlation(a, b, epsilon) for a, b in zip(q, p, strict=True)) / len(pixels)
    intra = 0.0
    for c in range(classes):
        intra += 1 - correlation([one[c] for one in q], [one[c] for one in p], epsilon)
    return beta * inter + gamma * intra / classes


@pytest.fixture
def sample():
    rng = np.random.default_rng(9)
    return (
        rng.normal(0, 2, (2, 5, 4, 7)),
        rng.normal(0, 3, (2, 5, 4, 7)),
        rng.random((2, 1, 4, 7)) < 0.6,
    )


def both(sample):
    return torch.from_numpy(sample[0]), torch.from_numpy(sample[1])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 3.0},
        {"beta": 2.0, "gamma": 0.5},
        {"beta": 0.0},
        {"gamma": 0.0},
        {"epsilon": 0.1, "temperature": 0.5},
    ],
)
def test_it_is_the_formula(sample, options, masked):
    mask = sample[2] if masked else None
    found = dist(*both(sample), mask=None if mask is None else torch.from_numpy(mask), **options)
    expected = reference(sample[0], sample[1], mask=mask, **options)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_all_pixels_of_the_batch_are_samples_of_a_class(sample):
    """Frame by frame the intra-class part is another number."""
    student, teacher = both(sample)
    whole = dist(student, teacher, beta=0)
    apart = [dist(student[b : b + 1], teacher[b : b + 1], beta=0).item() for b in range(2)]
    assert whole.item() != pytest.approx(sum(apart) / 2, rel=1e-4)


def test_a_straight_line_through_the_probabilities_costs_nothing_in_a_pixel():
    """q = a p + b is what a correlation cannot tell from p: the student may be less sure."""
    teacher = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    student = 0.4 * teacher + 0.2
    logits = [part.log().reshape(1, 3, 1, 1) for part in (student, teacher)]
    assert dist(*logits, gamma=0).item() == pytest.approx(0, abs=1e-15)


def test_opposite_probabilities_cost_2():
    teacher = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64).log()
    teacher = teacher.T.reshape(1, 3, 1, 2)
    # The middle class is the same in both pixels and does not count.
    assert dist(teacher.flip(3), teacher, beta=0).item() == pytest.approx(2)


def test_what_does_not_vary_to_the_teacher_does_not_count(sample):
    student, teacher = both(sample)
    expected = dist(student[..., 1:], teacher[..., 1:], gamma=0)
    teacher[..., 0] = 5.0  # all classes alike
    found = dist(student, teacher, gamma=0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_what_does_not_vary_to_the_student_costs_1_and_has_no_gradient(sample):
    _, teacher = both(sample)
    student = torch.zeros_like(teacher, requires_grad=True)
    value = dist(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(2)
    assert student.grad.eq(0).all()


def test_a_teacher_without_an_opinion_costs_nothing(sample):
    student, teacher = both(sample)
    student.requires_grad_()
    value = dist(student, torch.zeros_like(teacher))
    value.backward()
    assert value.item() == 0
    assert student.grad.eq(0).all()


def test_classes_that_no_frame_shows_still_have_a_correlation_in_float32(sample):
    """Their probabilities are about 1e-30: squared, they are no float32."""
    student, teacher = both(sample)
    student[:, 4] -= 70
    teacher[:, 4] -= 70
    expected = reference(student.numpy(), teacher.numpy())
    found = dist(student.float().requires_grad_(), teacher.float())
    found.backward()
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_with_epsilon_they_drop_out_at_a_constant(sample):
    student, teacher = both(sample)
    student[:, 4] -= 70
    teacher[:, 4] -= 70
    without = dist(student[:, :4], teacher[:, :4], beta=0).item()
    found = dist(student.float(), teacher.float(), beta=0, epsilon=1e-8)
    assert found.item() == pytest.approx((4 * without + 1) / 5, rel=1e-4)


def test_the_gradient_hardly_shrinks_with_the_temperature(sample):
    """Unlike that of a KL, which goes with 1 / T^2: no T^2 makes up for it."""

    def size(temperature):
        student = torch.from_numpy(sample[0]).clone().requires_grad_()
        dist(student, torch.from_numpy(sample[1]), temperature=temperature).backward()
        return student.grad.norm().item()

    assert size(64.0) == pytest.approx(size(32.0), rel=0.05)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_the_gradient_is_that_of_the_value(sample, masked, epsilon):
    student, teacher = both(sample)
    mask = torch.from_numpy(sample[2]) if masked else None
    assert torch.autograd.gradcheck(
        lambda z: dist(z, teacher, mask=mask, temperature=2, epsilon=epsilon),
        (student.requires_grad_(),),
    )


@pytest.mark.parametrize(
    "options",
    [{"beta": -1.0}, {"gamma": -0.1}, {"beta": 0.0, "gamma": 0.0}, {"epsilon": -1e-9}],
)
def test_impossible_weights_are_refused(sample, options):
    with pytest.raises(ConfigError, match="beta, gamma and epsilon must be 0 or more"):
        dist(*both(sample), **options)


def test_a_temperature_must_be_above_zero(sample):
    with pytest.raises(ConfigError, match="temperature must be above 0, got 0"):
        dist(*both(sample), temperature=0)
