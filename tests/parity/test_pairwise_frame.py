"""pairwise_frame against the formula, in float64, place by place and pair by pair.

Axes: the C x C form and the N x N one, patches that tile the grid and that do not, masks of each
frame, probabilities and logits.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.pairwise_frame import _by_gram, _by_pairs, pairwise_frame
from stillroom.storage_specs.errors import ArtifactError, ConfigError

BATCH = 2


def cosine(a, b):
    lengths = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(v * w for v, w in zip(a, b, strict=True)) / lengths if lengths else 0.0


def softmax(values):
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def places(frame, mask, of, patch):
    """Mean of the counted cells of each place in which one counts, row by row."""
    channels, height, width = frame.shape
    found = []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            cells = [
                [float(value) for value in frame[:, y, x]]
                for y in range(top, min(height, top + patch))
                for x in range(left, min(width, left + patch))
                if mask[0, y, x]
            ]
            cells = [softmax(cell) for cell in cells] if of == "probabilities" else cells
            if cells:
                found.append([sum(cell[c] for cell in cells) / len(cells) for c in range(channels)])
    return found


def reference(student, teacher, mask, of="probabilities", patch=1):
    total, counted = 0.0, 0
    for b in range(BATCH):
        s, s_later = (places(student[k][b], mask[k][b], of, patch) for k in (0, 1))
        t, t_later = (places(teacher[k][b], mask[k][b], of, patch) for k in (0, 1))
        for i in range(len(s)):
            for j in range(len(s_later)):
                total += (cosine(s[i], s_later[j]) - cosine(t[i], t_later[j])) ** 2
                counted += 1
    return total / counted


def sample(channels=4, size=(3, 5), seed=7):
    rng = np.random.default_rng(seed)
    shape = (2, BATCH, channels, *size)
    return rng.normal(0, 2, shape), rng.normal(1, 3, shape), rng.random((2, BATCH, 1, *size)) < 0.6


def found(student, teacher, mask=None, **options):
    s, t = ([torch.as_tensor(each) for each in part] for part in (student, teacher))
    masks = None if mask is None else [torch.as_tensor(each) for each in mask]
    return pairwise_frame(s, t, mask=masks, **options)


# 15 places of one cell: 4 channels go through the C x C matrices, 20 through the N x N ones
@pytest.mark.parametrize("channels", [3, 4, 20])
@pytest.mark.parametrize("of", ["probabilities", "logits"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("patch", [1, 2])
def test_it_is_the_formula(channels, of, masked, patch):
    student, teacher, mask = sample(channels)
    mask = mask if masked else np.ones_like(mask)
    value = found(student, teacher, mask if masked else None, of=of, patch=patch)
    expected = reference(student, teacher, mask, of, patch)
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_frames_with_nothing_shown_are_left_out_of_the_mean():
    student, teacher, mask = sample()
    mask[1, 0] = False  # t+k of the first pair
    value = found(student, teacher, mask)
    assert value.item() == pytest.approx(reference(student, teacher, mask), rel=1e-10)


def test_the_two_ways_to_the_sum_are_one():
    for channels in (2, 5, 30):
        unit = torch.nn.functional.normalize(torch.randn(4, 2, channels, 9).double(), dim=2)
        now, later = (unit[0], unit[1]), (unit[2], unit[3])
        torch.testing.assert_close(_by_gram(now, later), _by_pairs(now, later))


def test_float32_is_close_to_float64_near_agreement_too():
    student = torch.randn(2, BATCH, 8, 20, 24, dtype=torch.float64)
    for step in (1.0, 1e-1, 1e-2, 1e-3):
        teacher = student + step * torch.randn(student.shape, dtype=torch.float64)
        wide = found(student, teacher).item()
        narrow = found(student.float(), teacher.float()).item()
        assert narrow == pytest.approx(wide, rel=2e-3)


@pytest.mark.parametrize("channels", [4, 20])
@pytest.mark.parametrize("of", ["probabilities", "logits"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_that_of_the_value_in_both_frames(channels, of, masked):
    student, teacher, mask = (torch.from_numpy(part) for part in sample(channels))

    def loss(now, later):
        masks = tuple(mask) if masked else None
        return pairwise_frame((now, later), tuple(teacher), of=of, patch=2, mask=masks)

    assert torch.autograd.gradcheck(loss, tuple(each.requires_grad_() for each in student.clone()))


@pytest.mark.parametrize("channels", [4, 20])
def test_equal_maps_cost_exactly_nothing_and_have_no_gradient(channels):
    student, _, mask = (torch.from_numpy(part) for part in sample(channels))
    student = student.float().requires_grad_()
    value = found(student, student.detach(), mask)
    value.backward()
    assert value.item() == 0
    assert student.grad.eq(0).all()


@pytest.mark.parametrize("channels", [4, 20])
def test_both_frames_count_and_their_order_only_together(channels):
    student, teacher, mask = sample(channels)
    expected = found(student, teacher, mask).item()
    assert found(student[::-1].copy(), teacher[::-1].copy(), mask[::-1].copy()).item() == (
        pytest.approx(expected, rel=1e-12)
    )
    mixed = teacher.copy()
    mixed[0] = student[0]  # frame t agrees; t+k alone makes the difference
    assert 0.01 < found(student, mixed, mask).item() < expected


def test_where_places_are_does_not_matter_but_which_frame_they_are_in():
    student, teacher, mask = sample()
    expected = found(student, teacher, mask).item()
    moved = [part[..., ::-1, ::-1].copy() for part in (student, teacher, mask)]
    assert found(*moved).item() == pytest.approx(expected, rel=1e-12)
    swapped = student[::-1].copy()
    assert found(swapped, teacher, None).item() != pytest.approx(
        found(student, teacher, None).item(), rel=1e-3
    )


def test_the_length_of_logits_does_not_matter_nor_a_constant_to_probabilities():
    student, teacher, _ = sample()
    longer = np.random.default_rng(0).uniform(0.1, 50, (2, BATCH, 1, 3, 5))
    expected = found(student, teacher, of="logits").item()
    assert found(student * longer, teacher / longer, of="logits").item() == pytest.approx(expected)
    expected = found(student, teacher).item()
    assert found(student + longer, teacher - longer).item() == pytest.approx(expected)


def test_two_sure_frames_against_one_that_changes_its_mind():
    sure = torch.full((1, 2, 1, 4), -50.0)
    sure[:, 0] = 50
    other = sure.flip(1)
    # the student's frames are alike, the teacher's opposite: every cosine is 1 in place of 0
    assert found([sure, sure], [sure, other]).item() == pytest.approx(1)
    half = torch.cat([sure[..., :2], other[..., 2:]], dim=3)
    assert found([sure, sure], [sure, half]).item() == pytest.approx(0.5)


def test_a_vector_of_zeros_is_like_none_and_gets_no_gradient():
    student, teacher, _ = (torch.from_numpy(part) for part in sample(4))
    student[0, 0, :, 1, 2] = 0
    student = student.requires_grad_()
    value = found(student, teacher, of="logits")
    value.backward()
    everywhere = np.ones((2, BATCH, 1, 3, 5), bool)
    expected = reference(student.detach().numpy(), teacher.numpy(), everywhere, "logits")
    assert value.item() == pytest.approx(expected)
    assert student.grad[0, 0, :, 1, 2].eq(0).all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("of", ["probabilities", "logits"])
@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e30])
def test_what_is_masked_out_reaches_neither_value_nor_gradient(of, rubbish):
    student, teacher, mask = (torch.from_numpy(part) for part in sample())

    def value_and_gradient(one, other):
        leaf = one.clone().requires_grad_()
        value = found(leaf, other, mask, of=of, patch=2)
        value.backward()
        return value, leaf.grad

    value, gradient = value_and_gradient(student, teacher)
    spoilt = (part.masked_fill(~mask, rubbish) for part in (student, teacher))
    spoilt_value, spoilt_gradient = value_and_gradient(*spoilt)
    assert spoilt_value.equal(value)
    assert spoilt_gradient.equal(gradient)
    assert gradient[(~mask).expand_as(gradient)].eq(0).all()


def test_nothing_counted_gives_zero_that_can_be_differentiated():
    student, teacher, mask = (torch.from_numpy(part) for part in sample())
    student = student.requires_grad_()
    value = found(student, teacher, torch.zeros_like(mask))
    value.backward()
    assert value.item() == 0
    assert student.grad.eq(0).all()


def test_no_gradient_reaches_the_teacher():
    student, teacher, _ = (torch.from_numpy(part) for part in sample())
    teacher = teacher.requires_grad_()
    found(student.requires_grad_(), teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    student, teacher, mask = (torch.from_numpy(part) for part in sample())
    student, teacher = student.to(dtype), teacher.to(dtype)
    expected = found(student.float(), teacher.float(), mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = found(student, teacher, mask)
    assert value.dtype == torch.float32
    assert value.equal(expected)


def test_the_pairs_of_places_are_never_held():
    """6,400 places: a matrix of pairs has 41 million numbers, each map 25,600."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                largest = max(largest, made.numel())
            return made

    student, teacher = torch.randn(2, 2, 1, 4, 80, 80)
    leaves = [each.requires_grad_() for each in student]
    with Watch():
        pairwise_frame(leaves, list(teacher)).backward()
    assert largest == leaves[0].numel()


def test_what_does_not_fit_is_refused_naming_both():
    student, teacher, mask = (torch.from_numpy(part) for part in sample())
    with pytest.raises(ArtifactError, match="got 2 of the student, 1 of the teacher and 2 masks"):
        found(student, teacher[:1], mask)
    with pytest.raises(ArtifactError, match=r"\(2, 4, 3, 5\) at t and \(2, 4, 2, 5\) at t\+k"):
        found([student[0], student[1, :, :, :2]], teacher)
    with pytest.raises(ArtifactError, match=r"\(2, 4, 3, 5\).*\(2, 3, 3, 5\)"):
        found(student, teacher[:, :, :3])
    with pytest.raises(ArtifactError, match=r"mask must be \(2, 1, 3, 5\) torch.bool"):
        found(student, teacher, mask.float())
    with pytest.raises(ConfigError, match="'probabilities' or 'logits', got 'features'"):
        found(student, teacher, of="features")
    with pytest.raises(ConfigError, match="1 or more cells a side, got 0"):
        found(student, teacher, patch=0)
