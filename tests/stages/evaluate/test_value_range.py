"""Ranges of depth against NumPy, of pieces and of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from stillroom.stages.evaluate.value_range import Range


def test_pieces_merge_to_the_range_of_the_whole() -> None:
    values = np.random.default_rng(0).lognormal(1, 0.8, (6, 500)).astype(np.float32)
    values[:, :50], values[4] = 0, 0
    merged = Range()
    for piece in values:
        merged = merged.merge(Range.of(piece))
    there = values[values > 0].astype(np.float64)
    found = merged.to_dict()
    assert (found["present"], found["frames"]) == (there.size / values.size, 5)
    assert (found["least"], found["greatest"]) == (there.min(), there.max())
    assert found["mean"] == pytest.approx(there.mean())
    assert sum(found["histogram"].values()) == there.size
    for share in (5, 50, 95):
        expected = np.percentile(there, share)
        assert found[f"quantile_{share:02}"] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("below", [0.0, -1.0])  # -1: what some networks say where they know none
def test_what_is_not_above_0_is_no_value(below: float) -> None:
    found = Range.of(np.array([below, 2.0, 8.0, below]))
    assert found == Range.of(np.array([0.0, 2.0, 8.0, 0.0]))
    assert found.to_dict()["present"] == 0.5
    assert Range.of(np.full(3, below)).to_dict()["quantile_50"] is None
