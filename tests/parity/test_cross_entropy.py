"""cross_entropy against the formula, in float64 NumPy, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.cross_entropy import cross_entropy
from stillroom.storage_specs.errors import ArtifactError


def reference(student, labels, mask=None):
    batch, classes, height, width = student.shape
    total, counted = 0.0, 0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                label = int(labels[b, y, x])
                if label == 255 or (mask is not None and not mask[b, 0, y, x]):
                    continue
                partition = sum(math.exp(student[b, c, y, x]) for c in range(classes))
                total += -math.log(math.exp(student[b, label, y, x]) / partition)
                counted += 1
    return total / counted


@pytest.fixture
def sample():
    rng = np.random.default_rng(3)
    student = rng.normal(0, 3, (2, 5, 4, 7))
    labels = rng.integers(0, 5, (2, 4, 7))
    labels[rng.random((2, 4, 7)) < 0.2] = 255
    mask = rng.random((2, 1, 4, 7)) < 0.7
    return student, labels, mask


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula(sample, masked):
    student, labels, mask = sample
    mask = mask if masked else None
    expected = reference(student, labels, mask)
    found = cross_entropy(
        torch.from_numpy(student),
        torch.from_numpy(labels),
        mask=None if mask is None else torch.from_numpy(mask),
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_class_weights_weigh_pixels_and_the_mean(sample):
    student, labels, mask = sample
    weights, total, whole = [0.5, 2.0, 0.0, 1.0, 3.0], 0.0, 0.0
    for b, y, x in np.ndindex(labels.shape):
        if labels[b, y, x] != 255 and mask[b, 0, y, x]:
            alone = labels[b : b + 1, y : y + 1, x : x + 1]
            own = reference(student[b : b + 1, :, y : y + 1, x : x + 1], alone)
            total += weights[labels[b, y, x]] * own
            whole += weights[labels[b, y, x]]
    student, labels, mask = (torch.from_numpy(part) for part in sample)
    found = cross_entropy(student, labels, mask=mask, class_weights=torch.tensor(weights))
    assert found.item() == pytest.approx(total / whole, rel=1e-6)
    alike = cross_entropy(student, labels, mask=mask, class_weights=torch.full((5,), 7.0))
    assert alike.item() == pytest.approx(cross_entropy(student, labels, mask=mask).item())
    none = labels.clone().fill_(2)  # of a class that weighs nothing
    student.requires_grad_()
    found = cross_entropy(student, none, class_weights=torch.tensor(weights))
    found.backward()
    assert found.item() == 0
    assert not student.grad.any()


def test_uint8_labels_are_as_good_as_int64(sample):
    student, labels, _ = (torch.from_numpy(part) for part in sample)
    found = cross_entropy(student, labels.to(torch.uint8))
    assert found.equal(cross_entropy(student, labels))


def test_a_confident_right_answer_costs_nothing_and_a_wrong_one_its_margin():
    student = torch.tensor([50.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    assert cross_entropy(student, torch.tensor([[[0]]])).item() == pytest.approx(0, abs=1e-6)
    assert cross_entropy(student, torch.tensor([[[2]]])).item() == pytest.approx(50, abs=1e-5)


@pytest.mark.parametrize(("ignored", "masked"), [(True, False), (False, True)])
def test_nothing_to_learn_from_gives_zero_that_can_be_differentiated(ignored, masked):
    student = torch.randn(1, 3, 2, 2, requires_grad=True)
    labels = torch.full((1, 2, 2), 255 if ignored else 1)
    mask = torch.full((1, 1, 2, 2), not masked)
    loss = cross_entropy(student, labels, mask=mask)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.equal(torch.zeros_like(student))


def test_the_gradient_is_that_of_the_formula(sample):
    student, labels, mask = (torch.from_numpy(part) for part in sample)
    student = student[:, :, :2, :3].contiguous().requires_grad_()
    labels, mask = labels[:, :2, :3], mask[:, :, :2, :3]
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, labels, mask=mask), (student,))


@pytest.mark.parametrize("label", [5, 254, -1])
def test_a_label_that_is_no_class_is_refused(sample, label):
    student, labels, _ = (torch.from_numpy(part) for part in sample)
    labels[0, 0, 0] = label
    with pytest.raises(ArtifactError, match=rf"0\.\.4 or 255 .*5 classes.*{label}"):
        cross_entropy(student, labels)


@pytest.mark.parametrize("shape", [(2, 4, 6), (1, 4, 7), (2, 1, 4, 7)])
def test_labels_of_another_size_are_refused(sample, shape):
    student = torch.from_numpy(sample[0])
    with pytest.raises(ArtifactError, match=r"\(2, 5, 4, 7\) and labels"):
        cross_entropy(student, torch.zeros(shape, dtype=torch.int64))


def test_logits_without_a_batch_are_refused():
    with pytest.raises(ArtifactError, match=r"student logits are \(5,\)"):
        cross_entropy(torch.zeros(5), torch.zeros(5, dtype=torch.int64))


def test_a_mask_of_another_size_is_refused(sample):
    student, labels, _ = (torch.from_numpy(part) for part in sample)
    with pytest.raises(ArtifactError, match=r"mask must be \(2, 1, 4, 7\)"):
        cross_entropy(student, labels, mask=torch.ones(2, 1, 2, 7, dtype=torch.bool))
