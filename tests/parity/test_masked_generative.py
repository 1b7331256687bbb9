"""masked_generative against the formula, by loops in float64, convolutions included."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from stillroom.stages.train.losses.masked_generative import draw_keep, masked_generative
from stillroom.storage_specs.errors import ArtifactError

BATCH, CHANNELS, HEIGHT, WIDTH = 2, 3, 4, 5


def convolved(values, weight, bias):
    """3x3 convolution of (A, H, W) with zeros around it."""
    out = np.zeros((len(weight), HEIGHT, WIDTH))
    for o, y, x in np.ndindex(*out.shape):
        total = bias[o]
        for a, dy, dx in np.ndindex(CHANNELS, 3, 3):
            row, column = y + dy - 1, x + dx - 1
            if 0 <= row < HEIGHT and 0 <= column < WIDTH:
                total += weight[o, a, dy, dx] * values[a, row, column]
        out[o, y, x] = total
    return out


def reference(s, masked):
    total, counted = 0.0, 0
    for b in range(BATCH):
        shown = s.keep[b] & (s.mask[b] if masked else True)
        inner = convolved(np.where(shown, s.student[b], 0), *s.parameters[:2])
        generated = convolved(np.maximum(inner, 0), *s.parameters[2:])
        for y, x in np.ndindex(HEIGHT, WIDTH):
            if masked and not s.mask[b, 0, y, x]:
                continue
            errors = [(generated[a, y, x] - s.teacher[b, a, y, x]) ** 2 for a in range(CHANNELS)]
            total += sum(errors) / CHANNELS
            counted += 1
    return total / counted


@pytest.fixture
def sample():
    rng = np.random.default_rng(4)
    generate = nn.Sequential(
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
    ).double()
    return SimpleNamespace(
        student=rng.normal(size=(BATCH, CHANNELS, HEIGHT, WIDTH)),
        teacher=rng.normal(size=(BATCH, CHANNELS, HEIGHT, WIDTH)),
        mask=rng.random((BATCH, 1, HEIGHT, WIDTH)) < 0.7,
        keep=rng.random((BATCH, 1, HEIGHT, WIDTH)) < 0.4,
        generate=generate,
        parameters=[one.detach().numpy() for one in generate.parameters()],
    )


def run(s, student=None, teacher=None, mask=None, **changes):
    options = {"generate": s.generate, "keep": torch.from_numpy(s.keep), **changes}
    return masked_generative(
        torch.from_numpy(s.student) if student is None else student,
        torch.from_numpy(s.teacher) if teacher is None else teacher,
        mask=mask,
        **options,
    )


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula(sample, masked):
    found = run(sample, mask=torch.from_numpy(sample.mask) if masked else None)
    assert found.item() == pytest.approx(reference(sample, masked), rel=1e-12)


def test_a_generator_that_gives_the_teacher_costs_nothing(sample):
    teacher = torch.from_numpy(sample.teacher)
    assert run(sample, generate=lambda _: teacher).item() == 0


def test_hidden_positions_do_not_reach_the_generator_but_count(sample):
    hidden = torch.from_numpy(~sample.keep)
    student = torch.from_numpy(sample.student).requires_grad_()
    value = run(sample, student)
    value.backward()
    assert student.grad[hidden.expand_as(student)].eq(0).all()
    assert student.grad.abs().max() > 0
    other = run(sample, student.detach().masked_fill(hidden, 7.0))
    assert other.equal(value)
    teacher = torch.from_numpy(sample.teacher)
    assert run(sample, teacher=teacher.masked_fill(hidden, 7.0)).item() > value.item()


def test_the_gradient_is_that_of_the_value(sample):
    mask = torch.from_numpy(sample.mask)

    def value(student, *parameters):
        names = [name for name, _ in sample.generate.named_parameters()]

        def generate(z):
            return torch.func.functional_call(
                sample.generate, dict(zip(names, parameters, strict=True)), z
            )

        return run(sample, student, mask=mask, generate=generate)

    leaves = [torch.from_numpy(sample.student), *sample.generate.parameters()]
    assert torch.autograd.gradcheck(value, [one.detach().requires_grad_() for one in leaves])


@pytest.mark.parametrize("rubbish", [1e30, float("nan"), float("inf")])
def test_what_is_masked_out_reaches_neither_value_nor_gradient(sample, rubbish):
    mask = torch.from_numpy(sample.mask)

    def outcome(student, teacher):
        student = student.clone().requires_grad_()
        sample.generate.zero_grad()
        value = run(sample, student, teacher, mask)
        value.backward()
        return [value, student.grad, *(one.grad.clone() for one in sample.generate.parameters())]

    student, teacher = torch.from_numpy(sample.student), torch.from_numpy(sample.teacher)
    expected = outcome(student, teacher)
    found = outcome(student.masked_fill(~mask, rubbish), teacher.masked_fill(~mask, rubbish))
    for one, other in zip(expected, found, strict=True):
        assert one.equal(other)


def test_no_gradient_reaches_the_teacher(sample):
    teacher = torch.from_numpy(sample.teacher).requires_grad_()
    run(sample, torch.from_numpy(sample.student).requires_grad_(), teacher).backward()
    assert teacher.grad is None


def test_nothing_counted_gives_zero_that_can_be_differentiated(sample):
    student = torch.from_numpy(sample.student).requires_grad_()
    value = run(sample, student, mask=torch.zeros(BATCH, 1, HEIGHT, WIDTH, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert student.grad.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(sample, dtype):
    sample.generate.float()
    student, teacher = (torch.from_numpy(one).to(dtype) for one in (sample.student, sample.teacher))
    found = run(sample, student, teacher)
    assert found.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run(sample, student.float(), teacher.float()).equal(found)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75])
def test_positions_are_hidden_at_the_ratio_alike_in_all_channels_and_by_the_seed(ratio):
    features = torch.zeros(4, 7, 50, 50)
    torch.manual_seed(0)
    keep = draw_keep(features, ratio)
    assert keep.shape == (4, 1, 50, 50)
    assert (~keep).float().mean().item() == pytest.approx(ratio, abs=0.02)
    assert not keep.equal(draw_keep(features, 0.5))
    torch.manual_seed(0)
    assert keep.equal(draw_keep(features, ratio))


def test_other_shapes_are_refused(sample):
    with pytest.raises(ArtifactError, match=r"\(2, 3, 4, 5\) and the teacher's \(2, 3, 4, 4\)"):
        run(sample, teacher=torch.zeros(2, 3, 4, 4))
    for keep in (torch.ones(2, 3, 4, 5, dtype=torch.bool), torch.ones(2, 1, 4, 5)):
        with pytest.raises(ArtifactError, match=r"keep must be \(2, 1, 4, 5\) torch.bool, got"):
            run(sample, keep=keep)
    with pytest.raises(ArtifactError, match=r"generate made \(2, 2, 4, 5\) of \(2, 3, 4, 5\)"):
        run(sample, generate=lambda z: z[:, :2])
