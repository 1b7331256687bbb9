"""fitnet against the formula, in float64, value by value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillroom.stages.train.loss_parts.projector import Projector
from stillroom.stages.train.losses.fitnet import fitnet


def reference(student, teacher, mask):
    total, counted = 0.0, 0
    batch, channels, height, width = student.shape
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                if not mask[b, 0, y, x]:
                    continue
                for c in range(channels):
                    total += (student[b, c, y, x] - teacher[b, c, y, x]) ** 2
                    counted += 1
    return total / counted


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula(masked):
    rng = np.random.default_rng(9)
    student, teacher = rng.normal(0, 3, (2, 5, 4, 7)), rng.normal(1, 4, (2, 5, 4, 7))
    mask = rng.random((2, 1, 4, 7)) < 0.6 if masked else np.ones((2, 1, 4, 7), dtype=bool)
    found = fitnet(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        mask=torch.from_numpy(mask) if masked else None,
    )
    assert found.item() == pytest.approx(reference(student, teacher, mask), rel=1e-12)


def test_the_size_of_features_counts_by_its_square():
    student, teacher = torch.randn(2, 2, 5, 4, 7, dtype=torch.float64)
    expected = 9 * fitnet(student, teacher).item()
    assert fitnet(3 * student, 3 * teacher).item() == pytest.approx(expected, rel=1e-12)


def test_a_projector_learns_a_student_that_is_a_linear_map_away():
    torch.manual_seed(0)
    teacher = torch.randn(1, 6, 8, 8, dtype=torch.float64)
    mixing = torch.randn(3, 6, dtype=torch.float64) / 2
    student = torch.einsum("ac,bchw->bahw", mixing, teacher)  # keeps 3 of 6 directions
    projector = Projector(3, 6).double()
    before = fitnet(projector(student), teacher).item()
    optimiser = torch.optim.LBFGS(projector.parameters(), max_iter=100)

    def closure():
        optimiser.zero_grad()
        loss = fitnet(projector(student), teacher)
        loss.backward()
        return loss

    optimiser.step(closure)
    cells = torch.cat([student, torch.ones_like(student[:, :1])], dim=1).flatten(2)[0].T
    wanted = teacher.flatten(2)[0].T
    best = cells @ torch.linalg.lstsq(cells, wanted).solution
    after = fitnet(projector(student), teacher).item()
    assert after == pytest.approx((best - wanted).square().mean().item(), rel=1e-3)
    assert after < 0.6 * before
