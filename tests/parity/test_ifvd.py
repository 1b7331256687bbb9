"""ifvd against the formula, in float64, cell by cell and class by class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.ifvd import ifvd
from stillroom.storage_specs.errors import ArtifactError


def cosine(a, b):
    lengths = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(v * w for v, w in zip(a, b, strict=True)) / lengths if lengths else 0.0


def to_centre(features, frame, cells, labels):
    found = {}
    for cell in cells:
        alike = [other for other in cells if labels[(frame, *other)] == labels[(frame, *cell)]]
        centre = [
            sum(features[(frame, c, *other)] for other in alike) / len(alike)
            for c in range(features.shape[1])
        ]
        found[cell] = cosine(features[(frame, slice(None), *cell)], centre)
    return found


def reference(student, teacher, labels, mask):
    batch, _, height, width = student.shape
    squares = []
    for b in range(batch):
        cells = [
            (y, x)
            for y in range(height)
            for x in range(width)
            if mask[b, 0, y, x] and labels[b, y, x] != 255
        ]
        one, other = (to_centre(part, b, cells, labels) for part in (student, teacher))
        squares += [(one[cell] - other[cell]) ** 2 for cell in cells]
    return sum(squares) / len(squares)


@pytest.fixture
def sample():
    rng = np.random.default_rng(13)
    labels = rng.integers(0, 4, (2, 4, 7))
    labels[0, 1, 2:5] = 255
    labels[1, 3, 3] = 5  # a class of one cell; class 4 has none
    return (
        rng.normal(0, 3, (2, 5, 4, 7)),
        rng.normal(1, 4, (2, 8, 4, 7)),
        labels,
        rng.random((2, 1, 4, 7)) < 0.7,
    )


def tensors(sample):
    return tuple(torch.from_numpy(part) for part in sample)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_it_is_the_formula_whatever_the_channel_counts(sample, masked, dtype):
    student, teacher, labels, mask = sample
    if not masked:
        mask = np.ones_like(mask)
    found = ifvd(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        torch.from_numpy(labels.astype(dtype)),
        classes=6,
        mask=torch.from_numpy(mask) if masked else None,
    )
    assert found.item() == pytest.approx(reference(student, teacher, labels, mask), rel=1e-12)


def test_a_cell_without_a_label_is_as_good_as_a_masked_one(sample):
    student, teacher, labels, mask = tensors(sample)
    expected = ifvd(student, teacher, labels, classes=6, mask=mask)
    unlabelled = labels.masked_fill(~mask.squeeze(1), 255)
    assert ifvd(student, teacher, unlabelled, classes=6).item() == pytest.approx(expected.item())


def test_names_of_classes_and_their_number_do_not_matter(sample):
    student, teacher, labels, mask = tensors(sample)
    expected = ifvd(student, teacher, labels, classes=6, mask=mask).item()
    renamed = torch.where(labels == 255, 255, 9 - labels)
    found = ifvd(student, teacher, renamed, classes=20, mask=mask).item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_size_of_features_does_not_matter(sample):
    student, teacher, labels, mask = tensors(sample)
    expected = ifvd(student, teacher, labels, classes=6, mask=mask).item()
    found = ifvd(8 * student, teacher / 3, labels, classes=6, mask=mask).item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_frames_have_centres_of_their_own(sample):
    student, teacher, labels, _ = tensors(sample)
    whole = ifvd(student, teacher, labels, classes=6).item()
    shares = [
        ifvd(student[b : b + 1], teacher[b : b + 1], labels[b : b + 1], classes=6).item()
        for b in range(2)
    ]
    counts = [(labels[b] != 255).sum().item() for b in range(2)]
    weighed = (shares[0] * counts[0] + shares[1] * counts[1]) / sum(counts)
    assert whole == pytest.approx(weighed, rel=1e-12)


def test_classes_of_one_cell_cost_nothing():
    student, teacher = torch.randn(2, 1, 5, 2, 3, dtype=torch.float64)
    labels = torch.arange(6).reshape(1, 2, 3)
    assert ifvd(student, teacher, labels, classes=6).item() == pytest.approx(0, abs=1e-28)


def test_frames_without_labels_give_zero_that_can_be_differentiated(sample):
    student, teacher, labels, _ = tensors(sample)
    student = student.requires_grad_()
    loss = ifvd(student, teacher, torch.full_like(labels, 255), classes=6)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.eq(0).all()


def test_a_centre_that_is_zero_stays_finite():
    cells = torch.tensor([[1.0, -1.0, 0.0], [2.0, -2.0, 0.0]], dtype=torch.float64)
    student = cells.reshape(1, 2, 1, 3).requires_grad_()
    teacher = torch.randn(1, 4, 1, 3, dtype=torch.float64)
    labels = torch.zeros(1, 1, 3, dtype=torch.int64)
    loss = ifvd(student, teacher, labels, classes=1)
    loss.backward()
    expected = reference(
        student.detach().numpy(), teacher.numpy(), labels.numpy(), np.ones((1, 1, 1, 3), dtype=bool)
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 100


@pytest.mark.parametrize("strange", [6, -1, 254])
def test_a_label_that_is_no_class_is_refused(sample, strange):
    student, teacher, labels, _ = tensors(sample)
    labels[0, 0, 0] = strange
    with pytest.raises(ArtifactError, match=rf"0\.\.5 or 255 for 6 classes, got {strange}"):
        ifvd(student, teacher, labels, classes=6)


@pytest.mark.parametrize(
    "labels", [torch.zeros(2, 8, 14, dtype=torch.int64), torch.zeros(2, 4, 7), torch.zeros(4, 7)]
)
def test_labels_of_another_grid_or_kind_are_refused(sample, labels):
    student, teacher, _, _ = tensors(sample)
    with pytest.raises(ArtifactError, match=r"labels must be \(2, 4, 7\) of integers"):
        ifvd(student, teacher, labels, classes=6)
