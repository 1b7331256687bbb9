"""depth_regression against its formulas, in float64 NumPy, frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.depth_regression import depth_regression
from stillroom.storage_specs.errors import ArtifactError

KINDS = ["log_l1", "l1", "berhu", "scale_shift"]
every = pytest.mark.parametrize("kind", KINDS)


def standardised(values):
    apart = values - np.sort(values)[(len(values) - 1) // 2]  # the lower of two in the middle
    return apart / np.abs(apart).mean()


def of_a_frame(ours, theirs, kind):
    if kind == "log_l1":
        return np.abs(np.log(ours / theirs))
    if kind == "scale_shift":
        return np.abs(standardised(1 / ours) - standardised(1 / theirs))
    size = np.abs(ours - theirs)
    if kind == "l1":
        return size
    bend = size.max() / 5
    return np.array([e if e <= bend else (e * e + bend * bend) / (2 * bend) for e in size])


def reference(student, depth, kind, mask):
    parts = []
    for ours, theirs, counted in zip(student, depth, mask, strict=True):
        with np.errstate(invalid="ignore"):
            known = counted & np.isfinite(theirs) & (theirs > 0)
        parts.append(of_a_frame(ours[known], theirs[known], kind))
    return np.concatenate(parts).mean()


@pytest.fixture
def sample():
    rng = np.random.default_rng(7)
    depth = rng.uniform(0.5, 9, (2, 1, 5, 6))
    depth[rng.random(depth.shape) < 0.2] = 0
    depth[1, 0, 0, :3] = np.nan, np.inf, -1
    return rng.uniform(0.5, 9, (2, 1, 5, 6)), depth, rng.random((2, 1, 5, 6)) < 0.8


@every
def test_it_is_the_formula(sample, kind):
    student, depth, mask = sample
    found = depth_regression(*map(torch.from_numpy, (student, depth)), kind=kind,
                             mask=torch.from_numpy(mask))  # fmt: skip
    assert found.item() == pytest.approx(reference(student, depth, kind, mask), rel=1e-10)


@every
def test_equal_depths_cost_nothing_and_no_gradient_reaches_the_teacher(sample, kind):
    depth = torch.from_numpy(sample[1]).requires_grad_()
    student = depth.detach().nan_to_num(1, 1, 1).clamp(min=0.1).requires_grad_()
    value = depth_regression(student, depth, kind=kind)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert depth.grad is None


@every
def test_the_gradient_is_that_of_the_value(sample, kind):
    student, depth, mask = map(torch.from_numpy, sample)
    student.requires_grad_()
    if kind == "berhu":  # its bend, a number of the batch, is taken as given
        depth = torch.where(depth == depth[1, 0, 4, 5], student.detach() + 50, depth)

    def value(ours):
        return depth_regression(ours, depth, kind=kind, mask=mask)

    if kind != "berhu":
        assert torch.autograd.gradcheck(value, (student,))


@every
def test_no_depth_gives_zero_that_can_be_differentiated(sample, kind):
    student = torch.from_numpy(sample[0]).requires_grad_()
    value = depth_regression(student, torch.zeros(2, 1, 5, 6), kind=kind)
    value.backward()
    assert value.item() == 0
    assert student.grad.equal(torch.zeros_like(student))


@every
@pytest.mark.parametrize("rubbish", [1e30, float("nan"), -5.0])
def test_what_is_masked_out_reaches_neither_value_nor_gradient(sample, kind, rubbish):
    student, depth, mask = map(torch.from_numpy, sample)

    def found(target):
        leaf = student.clone().requires_grad_()
        value = depth_regression(leaf, target, kind=kind, mask=mask)
        value.backward()
        return value, leaf.grad

    value, gradient = found(depth)
    spoilt, other = found(depth.masked_fill(~mask, rubbish))
    assert spoilt.equal(value)
    assert other.equal(gradient)
    assert gradient[~mask].eq(0).all()


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (0.5, 0.4)])
def test_scale_and_shift_of_inverse_depth_do_not_matter_to_their_kind(sample, scale, shift):
    student, depth, mask = map(torch.from_numpy, sample)
    known = depth.isfinite() & (depth > 0)
    moved = torch.where(known, 1 / (scale / depth + shift), 0.0)
    plain = depth_regression(student, depth, kind="scale_shift", mask=mask)
    found = depth_regression(student, moved, kind="scale_shift", mask=mask)
    assert found.item() == pytest.approx(plain.item(), rel=1e-10)
    assert depth_regression(student, moved, mask=mask) != depth_regression(
        student, depth, mask=mask
    )


def test_half_precision_is_computed_in_float32(sample):
    student, depth, mask = map(torch.from_numpy, sample)
    for kind in KINDS:
        found = depth_regression(student.half(), depth.half(), kind=kind, mask=mask)
        assert found.dtype == torch.float32
        exact = depth_regression(student.half().float(), depth.half().float(), kind=kind, mask=mask)
        assert found.equal(exact)


def test_other_shapes_are_refused_naming_both(sample):
    student = torch.from_numpy(sample[0])
    for depth in (torch.ones(2, 5, 6), torch.ones(2, 2, 5, 6), torch.ones(2, 1, 10, 12)):
        with pytest.raises(ArtifactError) as error:
            depth_regression(student, depth)
        assert "(2, 1, 5, 6)" in str(error.value)
        assert str(tuple(depth.shape)) in str(error.value)
