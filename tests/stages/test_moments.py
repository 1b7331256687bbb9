from __future__ import annotations

import numpy as np
import pytest
import torch

from stillroom.stages.moments import moments


def test_moments_are_those_of_the_columns_that_count():
    values = np.random.default_rng(0).normal(3, 2, (4, 9))
    counted = np.array([1, 0, 1, 1, 0, 0, 1, 1, 0], bool)
    found = moments(torch.from_numpy(values), torch.from_numpy(counted))
    kept = values[:, counted]
    assert found.mean.numpy() == pytest.approx(kept.mean(1))
    assert found.variance.numpy() == pytest.approx(kept.var(1))
    assert found.square.item() == pytest.approx((kept**2).mean())
    assert found.there.item()
    every = moments(torch.from_numpy(values))
    assert every.variance.numpy() == pytest.approx(values.var(1))


@pytest.mark.parametrize("columns", [3, 0])
def test_of_nothing_they_are_0(columns):
    found = moments(torch.ones(2, columns), torch.zeros(columns, dtype=torch.bool))
    assert not found.there.item()
    assert found.mean.tolist() == found.variance.tolist() == [0, 0]
    assert found.square.item() == 0
