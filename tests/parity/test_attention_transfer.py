"""attention_transfer against the formula, in float64, cell by cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.attention_transfer import attention_transfer
from stillroom.storage_specs.errors import ConfigError


def attention(features, frame, cells, power, over_channels=sum):
    energies = [
        over_channels([abs(features[frame, c, y, x]) ** power for c in range(features.shape[1])])
        for y, x in cells
    ]
    length = math.sqrt(sum(value**2 for value in energies))
    return [value / length for value in energies] if length else energies


def reference(student, teacher, power, mask, over_channels=sum):
    batch, _, height, width = student.shape
    distances = []
    for b in range(batch):
        cells = [(y, x) for y in range(height) for x in range(width) if mask[b, 0, y, x]]
        if not cells:
            continue
        one = attention(student, b, cells, power, over_channels)
        other = attention(teacher, b, cells, power, over_channels)
        distances.append(sum((p - q) ** 2 for p, q in zip(one, other, strict=True)))
    return sum(distances) / len(distances)


@pytest.fixture
def sample():
    rng = np.random.default_rng(7)
    mask = rng.random((3, 1, 4, 7)) < 0.6
    mask[1] = False
    return rng.normal(0, 3, (3, 5, 4, 7)), rng.normal(1, 2, (3, 8, 4, 7)), mask


@pytest.mark.parametrize("power", [1.0, 2.0, 2.5])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula_whatever_the_channel_counts(sample, power, masked):
    student, teacher, mask = sample
    if not masked:
        mask = np.ones_like(mask)
    found = attention_transfer(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        power=power,
        mask=torch.from_numpy(mask) if masked else None,
    )
    assert found.item() == pytest.approx(reference(student, teacher, power, mask), rel=1e-12)


def test_the_sum_of_the_paper_and_the_mean_of_its_code_are_one_after_normalising(sample):
    student, teacher, mask = sample
    by_sum = reference(student, teacher, 2.0, mask)
    by_mean = reference(student, teacher, 2.0, mask, over_channels=lambda v: sum(v) / len(v))
    assert by_mean == pytest.approx(by_sum, rel=1e-12)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_sign_size_and_order_of_channels_do_not_matter(sample, power):
    student, teacher, mask = (torch.from_numpy(part) for part in sample)
    expected = attention_transfer(student, teacher, power=power, mask=mask).item()
    found = attention_transfer(
        -7 * student[:, [3, 1, 0, 4, 2]], teacher.flip(1) / 5, power=power, mask=mask
    ).item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_maps_that_have_nothing_in_common_are_2_apart():
    student, teacher = torch.zeros(2, 1, 3, 2, 2)
    student[0, :, 0, 0] = 4
    teacher[0, :, 1, 1] = -3
    assert attention_transfer(student, teacher).item() == pytest.approx(2)


def test_a_frame_without_any_activation_costs_1_and_stays_finite():
    student = torch.zeros(1, 3, 2, 2, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(1, 4, 2, 2, dtype=torch.float64)
    loss = attention_transfer(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(1)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("power", [0.5, 0, -2, float("nan"), float("inf")])
def test_a_power_below_1_is_refused(sample, power):
    student, teacher, _ = (torch.from_numpy(part) for part in sample)
    with pytest.raises(ConfigError, match="power must be a number of 1 or more, got"):
        attention_transfer(student, teacher, power=power)
