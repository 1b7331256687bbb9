"""consistency_l2 against the formula, in float64 NumPy, pixel by pixel and neighbour by neighbour.

A neighbour outside the map, or one that the mask leaves out, does not count.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.consistency_l2 import consistency_l2, consistency_map


def reference_map(logits, mask):
    batch, classes, height, width = logits.shape
    consistency = np.zeros((batch, height, width))
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        ny, nx = y + dy, x + dx
                        if (dy, dx) == (0, 0) or not (0 <= ny < height and 0 <= nx < width):
                            continue
                        if not (mask[b, 0, y, x] and mask[b, 0, ny, nx]):
                            continue
                        for c in range(classes):
                            step = logits[b, c, ny, nx] - logits[b, c, y, x]
                            consistency[b, y, x] += step**2
    return consistency


def reference(student, teacher, mask):
    difference = reference_map(student, mask) - reference_map(teacher, mask)
    return sum(d**2 for d, m in zip(difference.flat, mask.flat, strict=True) if m) / mask.sum()


@pytest.mark.parametrize("size", [(4, 7), (7, 4), (2, 2), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula(size, masked):
    rng = np.random.default_rng(11)
    student, teacher = rng.normal(0, 3, (2, 5, *size)), rng.normal(0, 4, (2, 5, *size))
    mask = rng.random((2, 1, *size)) < 0.7 if masked else np.ones((2, 1, *size), dtype=bool)
    mask[0, 0, 0, 0] = True
    found = consistency_l2(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        mask=torch.from_numpy(mask) if masked else None,
    )
    assert found.item() == pytest.approx(reference(student, teacher, mask), rel=1e-12)


def test_the_map_counts_eight_neighbours_inside_five_at_edges_three_in_corners():
    board = torch.zeros(1, 1, 4, 5)
    board[0, 0, 1, 2] = 1.0  # its own neighbours see one step of 1, itself eight
    expected = torch.zeros(4, 5)
    expected[0:3, 1:4] = 1
    expected[1, 2] = 8
    assert consistency_map(board)[0].equal(expected)
    corner = torch.zeros(1, 1, 3, 3)
    corner[0, 0, 0, 0] = 1.0
    assert consistency_map(corner)[0, 0, 0] == 3
    edge = torch.zeros(1, 1, 3, 3)
    edge[0, 0, 0, 1] = 1.0
    assert consistency_map(edge)[0, 0, 1] == 5


def test_a_masked_neighbour_does_not_count():
    board = torch.zeros(1, 1, 3, 3)
    board[0, 0, 1, 1] = 1.0
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    mask[0, 0, 0, 0] = False
    assert consistency_map(board, mask)[0, 1, 1] == 7


def test_a_constant_per_channel_changes_nothing_and_a_scale_its_fourth_power():
    student, teacher = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64)
    expected = consistency_l2(student, teacher).item()
    shift = torch.randn(1, 4, 1, 1, dtype=torch.float64)
    assert consistency_l2(student + shift, teacher - shift).item() == pytest.approx(expected)
    scaled = consistency_l2(3 * student, 3 * teacher).item()
    assert scaled == pytest.approx(81 * expected)


@pytest.mark.parametrize("dims", [(2,), (3,), (2, 3)])
def test_mirroring_both_changes_nothing(dims):
    student, teacher = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64)
    found = consistency_l2(student.flip(dims), teacher.flip(dims)).item()
    assert found == pytest.approx(consistency_l2(student, teacher).item())
