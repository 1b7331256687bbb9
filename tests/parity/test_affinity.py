"""affinity against the formula, in float64 Python, pair by pair, through the whole matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.affinity import _rows_by_gram, _rows_by_pairs, affinity


def cosine(a, b):
    product = sum(x * y for x, y in zip(a, b, strict=True))
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return product / lengths if lengths else 0.0


def reference(student, teacher, mask):
    frames = []
    for b in range(len(student)):
        places = list(zip(*np.nonzero(mask[b, 0]), strict=True))
        if not places:
            continue
        m, total = len(places), 0.0
        for y, x in places:
            row = 0.0
            for v, u in places:
                s = cosine(student[b, :, y, x], student[b, :, v, u]) / m
                t = cosine(teacher[b, :, y, x], teacher[b, :, v, u]) / m
                row += (s - t) ** 2
            total += math.sqrt(row)
        frames.append(total)
    return sum(frames) / len(frames)


def sample(channels=5, size=(3, 4), seed=3):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(0, 2, (3, channels, *size)),
        rng.normal(1, 3, (3, channels, *size)),
        rng.random((3, 1, *size)) < 0.6,
    )


# 12 positions: 5 channels go through the C x C matrices, 16 through the N x N ones
@pytest.mark.parametrize("channels", [3, 5, 12, 16])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula(channels, masked):
    student, teacher, mask = sample(channels)
    mask = mask if masked else np.ones_like(mask)
    found = affinity(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        mask=torch.from_numpy(mask) if masked else None,
    )
    assert found.item() == pytest.approx(reference(student, teacher, mask), rel=1e-10)


def test_a_frame_without_a_counted_position_is_left_out_of_the_mean():
    student, teacher, mask = sample()
    mask[1] = False
    found = affinity(*map(torch.from_numpy, (student, teacher)), mask=torch.from_numpy(mask))
    assert found.item() == pytest.approx(reference(student, teacher, mask), rel=1e-10)


def test_the_two_ways_to_a_rows_sum_are_one():
    for channels in (2, 5, 30):
        s, t = torch.nn.functional.normalize(torch.randn(2, 2, channels, 9).double(), dim=2)
        torch.testing.assert_close(_rows_by_gram(s, t), _rows_by_pairs(s, t))


def test_float32_is_close_to_float64_near_agreement_too():
    student, _, _ = (torch.from_numpy(part) for part in sample(8, (9, 11)))
    for step in (1.0, 1e-1, 1e-2, 1e-3):
        teacher = student + step * torch.randn(student.shape, dtype=torch.float64)
        wide = affinity(student, teacher).item()
        narrow = affinity(student.float(), teacher.float()).item()
        assert narrow == pytest.approx(wide, rel=2e-3)


@pytest.mark.parametrize("channels", [5, 16])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_that_of_the_value(channels, masked):
    student, teacher, mask = (torch.from_numpy(part) for part in sample(channels))
    assert torch.autograd.gradcheck(
        lambda x: affinity(x, teacher, mask=mask if masked else None), (student.requires_grad_(),)
    )


@pytest.mark.parametrize("channels", [5, 16])
def test_equal_maps_cost_exactly_nothing_and_have_no_gradient(channels):
    student, _, mask = (torch.from_numpy(part).clone() for part in sample(channels))
    student = student.float().requires_grad_()
    for scale in (1, 4):  # a power of 2: the unit vectors are the same to the last bit
        value = affinity(student, scale * student.detach(), mask=mask)
        value.backward()
        assert value.item() == 0
        assert student.grad.eq(0).all()


def test_how_long_a_vector_is_and_how_channels_are_turned_does_not_matter():
    student, teacher, mask = (torch.from_numpy(part) for part in sample())
    expected = affinity(student, teacher, mask=mask).item()
    longer = torch.rand(3, 1, 3, 4, dtype=torch.float64) * 50 + 0.1
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    turned = torch.einsum("dc,bchw->bdhw", turn, student * longer)
    assert affinity(turned, teacher / longer, mask=mask).item() == pytest.approx(expected)


@pytest.mark.parametrize("dims", [(2,), (3,), (2, 3)])
def test_where_the_positions_are_does_not_matter(dims):
    student, teacher, _ = (torch.from_numpy(part) for part in sample())
    found = affinity(student.flip(dims), teacher.flip(dims)).item()
    assert found == pytest.approx(affinity(student, teacher).item(), rel=1e-12)


def test_uniform_against_two_opposite_halves():
    student, teacher = torch.ones(1, 3, 1, 8), torch.ones(1, 3, 1, 8)
    teacher[..., 4:] = -1  # four of eight cosines of each row are -1 in place of 1
    assert affinity(student, teacher).item() == pytest.approx(8 * math.sqrt(4 * 4) / 8)


def test_a_vector_without_direction_is_like_none_and_gets_no_gradient():
    student, teacher = torch.ones(1, 2, 1, 3), torch.ones(1, 2, 1, 3)
    student[..., 0] = 0
    student.requires_grad_()
    value = affinity(student, teacher)
    value.backward()
    # its row lacks three cosines of 1, the other two rows one each
    assert value.item() == pytest.approx((math.sqrt(3) + 2) / 3)
    assert student.grad[..., 0].eq(0).all()


@pytest.mark.parametrize("channels", [64, 4096])
def test_memory_is_that_of_the_smaller_matrix(channels):
    """10,000 positions would take 400 MB a matrix; 4,096 channels of 9 positions 67 MB."""
    size = (100, 100) if channels == 64 else (3, 3)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                largest = max(largest, found.numel())
            return found

    student, teacher = torch.randn(2, 1, channels, *size)
    with Watch():
        affinity(student.requires_grad_(), teacher).backward()
    assert largest <= student.numel()
