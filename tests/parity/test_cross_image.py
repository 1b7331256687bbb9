"""The two cross-image losses against their formulas, by loops in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stillroom.stages.train.loss_parts.similarities import draw_pixels
from stillroom.stages.train.losses.cross_image_memory import cross_image_memory
from stillroom.stages.train.losses.cross_image_pixel import cross_image_pixel
from stillroom.storage_specs.errors import ArtifactError, ConfigError

BATCH, CHANNELS, HEIGHT, WIDTH = 3, 4, 3, 5


def unit(vector):
    return vector / math.sqrt(sum(value**2 for value in vector))


def divergence(own_s, own_t, others_s, others_t, temperature):
    def softmax(own, others):
        similar = [sum(unit(own) * unit(other)) / temperature for other in others]
        exponentials = [math.exp(value) for value in similar]
        return [value / sum(exponentials) for value in exponentials]

    q, p = softmax(own_s, others_s), softmax(own_t, others_t)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def places(s, b, masked, chosen):
    """Positions that count of frame b."""
    flat = range(HEIGHT * WIDTH) if chosen is None else [one for one in chosen[b] if one >= 0]
    found = [(place // WIDTH, place % WIDTH) for place in flat]
    return [place for place in found if not masked or s.mask[(b, 0, *place)]]


def reference_pixel(s, temperature=0.1, masked=False, chosen=None):
    total, rows = 0.0, 0
    for b in range(BATCH):
        for d in range(BATCH):
            others = places(s, d, masked, chosen)
            if not others:
                continue
            for y, x in places(s, b, masked, chosen):
                total += divergence(
                    s.student[b, :, y, x],
                    s.teacher[b, :, y, x],
                    [s.student[d, :, m, n] for m, n in others],
                    [s.teacher[d, :, m, n] for m, n in others],
                    temperature,
                )
                rows += 1
    return total / rows


def reference_memory(s, temperature=0.1, masked=False, chosen=None):
    total, rows = 0.0, 0
    for b in range(BATCH):
        for y, x in places(s, b, masked, chosen):
            vectors = (s.student[b, :, y, x], s.target[b, :, y, x])
            total += divergence(*vectors, s.memory, s.memory, temperature)
            rows += 1
    return total / rows


@pytest.fixture
def sample():
    rng = np.random.default_rng(2)
    memory = rng.normal(size=(7, CHANNELS))
    mask = rng.random((BATCH, 1, HEIGHT, WIDTH)) < 0.6
    return SimpleNamespace(
        student=rng.normal(size=(BATCH, CHANNELS, HEIGHT, WIDTH)),
        teacher=rng.normal(size=(BATCH, 6, HEIGHT, WIDTH)),  # other channels than the student
        target=rng.normal(size=(BATCH, CHANNELS, HEIGHT, WIDTH)),
        memory=memory / np.linalg.norm(memory, axis=1, keepdims=True),
        mask=mask,
        chosen=np.array([[0, 7, 3, 14], [2, -1, 11, -1], [8, 9, 10, 1]]),
    )


def pixel(s, student=None, teacher=None, **options):
    return cross_image_pixel(
        torch.from_numpy(s.student) if student is None else student,
        torch.from_numpy(s.teacher) if teacher is None else teacher,
        **options,
    )


def memory(s, student=None, teacher=None, **options):
    return cross_image_memory(
        torch.from_numpy(s.student) if student is None else student,
        torch.from_numpy(s.target) if teacher is None else teacher,
        **{"memory": torch.from_numpy(s.memory), **options},
    )


KINDS = {
    "pixel": (pixel, reference_pixel, "teacher"),
    "memory": (memory, reference_memory, "target"),
}
every = pytest.mark.parametrize(("loss", "reference", "of"), KINDS.values(), ids=KINDS.keys())


@every
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_it_is_the_formula(sample, loss, reference, of, temperature, some, masked):
    found = loss(
        sample,
        temperature=temperature,
        chosen=torch.from_numpy(sample.chosen) if some else None,
        mask=torch.from_numpy(sample.mask) if masked else None,
    )
    expected = reference(sample, temperature, masked, sample.chosen if some else None)
    assert found.item() == pytest.approx(expected, rel=1e-11)


@every
def test_the_temperature_is_a_tenth_unless_told_otherwise(sample, loss, reference, of):
    assert loss(sample).item() == pytest.approx(reference(sample, 0.1), rel=1e-11)


@every
def test_a_frame_of_which_nothing_counts_does_not_dilute_the_others(sample, loss, reference, of):
    sample.mask[:] = True
    sample.mask[1] = False
    found = loss(sample, mask=torch.from_numpy(sample.mask))
    rest = torch.tensor([0, 2])
    alone = loss(
        sample,
        torch.from_numpy(sample.student)[rest],
        torch.from_numpy(getattr(sample, of))[rest],
    )
    assert found.item() == pytest.approx(alone.item(), rel=1e-12)


@every
def test_equal_features_cost_nothing_at_any_length(sample, loss, reference, of):
    """Only directions are compared."""
    student = torch.from_numpy(sample.student).requires_grad_()
    length = torch.rand(BATCH, 1, HEIGHT, WIDTH, dtype=torch.float64) + 0.5
    value = loss(sample, student, student.detach() * length)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-14)
    assert student.grad.abs().max() < 1e-13


def test_a_rotation_of_all_features_changes_only_what_is_compared_with_a_memory(sample):
    rotation = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, dtype=torch.float64))[0]
    student = torch.from_numpy(sample.student)
    rotated = torch.einsum("ka,bahw->bkhw", rotation, student)
    assert pixel(sample, rotated).item() == pytest.approx(pixel(sample).item(), rel=1e-10)
    assert memory(sample, rotated).item() != pytest.approx(memory(sample).item(), rel=1e-3)


@every
def test_the_order_of_frames_and_pixels_does_not_matter(sample, loss, reference, of):
    student, teacher = torch.from_numpy(sample.student), torch.from_numpy(getattr(sample, of))
    mask = torch.from_numpy(sample.mask)
    found = loss(sample, student.flip(0, 3), teacher.flip(0, 3), mask=mask.flip(0, 3))
    expected = loss(sample, student, teacher, mask=mask)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


@every
@pytest.mark.parametrize("some", [False, True])
def test_the_gradient_is_that_of_the_value(sample, loss, reference, of, some):
    mask = torch.from_numpy(sample.mask)
    chosen = torch.from_numpy(sample.chosen) if some else None
    student = torch.from_numpy(sample.student).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: loss(sample, z, mask=mask, chosen=chosen, temperature=0.3), (student,)
    )


@every
def test_a_term_may_be_measured_before_the_step(sample, loss, reference, of):
    """Two backward passes through the parts that are computed again."""
    student = torch.from_numpy(sample.student).requires_grad_()
    value = loss(sample, student)
    (first,) = torch.autograd.grad(value, student, retain_graph=True)
    (second,) = torch.autograd.grad(value, student)
    assert first.equal(second)


@every
@pytest.mark.parametrize("rubbish", [1e30, float("nan"), float("inf")])
def test_what_is_masked_out_reaches_neither_value_nor_gradient(
    sample, loss, reference, of, rubbish
):
    mask = torch.from_numpy(sample.mask)

    def outcome(student, teacher):
        student = student.clone().requires_grad_()
        value = loss(sample, student, teacher, mask=mask)
        value.backward()
        return value, student.grad

    student, teacher = torch.from_numpy(sample.student), torch.from_numpy(getattr(sample, of))
    value, gradient = outcome(student, teacher)
    spoilt, same = outcome(student.masked_fill(~mask, rubbish), teacher.masked_fill(~mask, rubbish))
    assert spoilt.equal(value)
    assert same.equal(gradient)
    assert gradient[(~mask).expand_as(gradient)].eq(0).all()


@every
def test_nothing_counted_gives_zero_that_can_be_differentiated(sample, loss, reference, of):
    for options in (
        {"mask": torch.zeros(BATCH, 1, HEIGHT, WIDTH, dtype=torch.bool)},
        {"chosen": torch.full((BATCH, 2), -1)},
    ):
        student = torch.from_numpy(sample.student).requires_grad_()
        value = loss(sample, student, **options)
        value.backward()
        assert value.item() == 0
        assert student.grad.eq(0).all()


def test_an_empty_memory_gives_zero_that_can_be_differentiated(sample):
    student = torch.from_numpy(sample.student).requires_grad_()
    value = memory(sample, student, memory=torch.zeros(0, CHANNELS))
    value.backward()
    assert value.item() == 0
    assert student.grad.eq(0).all()


@every
def test_features_of_zeros_have_no_direction_and_no_gradient(sample, loss, reference, of):
    """What a ReLU leaves of a dead cell: similar to nothing, and not pulled with 1e12."""
    student = torch.from_numpy(sample.student)
    student[0, :, 1, 2] = 0
    student.requires_grad_()
    value = loss(sample, student)
    value.backward()
    assert student.grad.isfinite().all()
    assert student.grad[0, :, 1, 2].eq(0).all()
    assert student.grad.abs().max() < 10


@every
def test_no_gradient_reaches_the_teacher(sample, loss, reference, of):
    teacher = torch.from_numpy(getattr(sample, of)).requires_grad_()
    loss(sample, torch.from_numpy(sample.student).requires_grad_(), teacher).backward()
    assert teacher.grad is None


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(sample, loss, reference, of, dtype):
    parts = [torch.from_numpy(one).to(dtype) for one in (sample.student, getattr(sample, of))]
    found = loss(sample, *parts)
    assert found.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(sample, *(part.float() for part in parts)).equal(found)


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had that any operation made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


def test_memory_is_that_of_one_frame_against_all():
    batch, side, pixels, channels = 4, 20, 50, 8
    student = torch.randn(batch, channels, side, side, requires_grad=True)
    teacher = torch.randn(batch, channels, side, side)
    chosen = draw_pixels(torch.ones(batch, 1, side, side, dtype=torch.bool), pixels)
    saved = []
    with (
        Largest() as largest,
        torch.autograd.graph.saved_tensors_hooks(
            lambda t: (saved.append(t.numel()), t)[1], lambda t: t
        ),
    ):
        value = cross_image_pixel(student, teacher, chosen=chosen)
        value.backward()
    assert largest.numbers <= max(batch * pixels**2, student.numel())
    assert sum(saved) < 8 * (batch * pixels * channels + student.numel())


def test_drawn_pixels_are_some_that_count_each_once():
    mask = torch.rand(3, 1, 9, 11) < 0.5
    mask[2] = False
    mask[2, 0, 4, 5] = True
    chosen = draw_pixels(mask, 20)
    assert chosen.shape == (3, 20)
    for frame, own in zip(mask.flatten(1), chosen, strict=True):
        real = own[own >= 0]
        assert len(real.unique()) == len(real) == min(20, int(frame.sum()))
        assert frame[real].all()
    assert draw_pixels(mask, 1000).shape == (3, 99)


def test_drawn_pixels_follow_the_seed():
    mask = torch.ones(2, 1, 9, 11, dtype=torch.bool)
    torch.manual_seed(1)
    one = draw_pixels(mask, 20)
    other = draw_pixels(mask, 20)
    torch.manual_seed(1)
    assert draw_pixels(mask, 20).equal(one)
    assert not other.equal(one)
    assert not one[0].equal(one[1])


def test_every_pixel_is_drawn_equally_often():
    mask = torch.ones(1, 1, 2, 5, dtype=torch.bool)
    mask[0, 0, 0, 3] = False
    torch.manual_seed(0)
    drawn = torch.cat([draw_pixels(mask, 3)[0] for _ in range(3000)])
    counts = drawn.bincount(minlength=10)
    assert counts[3] == 0
    expected = 3000 * 3 / 9
    assert ((counts[counts > 0] - expected).abs() < 5 * math.sqrt(expected)).all()


def test_other_shapes_are_refused(sample):
    with pytest.raises(ArtifactError, match=r"\(3, 4, 3, 5\) and the teacher's \(3, 6, 3, 4\)"):
        pixel(sample, teacher=torch.zeros(3, 6, 3, 4))
    with pytest.raises(ArtifactError, match=r"\(3, 4, 3, 5\) and the teacher's \(3, 6, 3, 5\)"):
        memory(sample, teacher=torch.zeros(3, 6, 3, 5))
    with pytest.raises(ArtifactError, match=r"memory must be \(K, 4\) .* got \(7, 5\)"):
        memory(sample, memory=torch.zeros(7, 5))
    for loss in (pixel, memory):
        with pytest.raises(ArtifactError, match=r"mask must be \(3, 1, 3, 5\) torch.bool"):
            loss(sample, mask=torch.ones(3, 1, 3, 5))
        with pytest.raises(ArtifactError, match=r"chosen must be \(3, n\) torch.int64"):
            loss(sample, chosen=torch.zeros(2, 4, dtype=torch.int64))
        with pytest.raises(ConfigError, match="temperature must be above 0, got 0"):
            loss(sample, temperature=0)
