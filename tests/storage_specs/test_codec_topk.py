"""Codec topk: the likeliest classes and the mass of the others, for many classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stillroom.storage_specs.codecs.topk import TopK
from stillroom.storage_specs.errors import ArtifactError


def log_softmax(x: np.ndarray) -> np.ndarray:
    below = x.astype(np.float64) - x.max(axis=0)
    return below - np.log(np.exp(below).sum(axis=0))


def round_trip(codec: TopK, x: np.ndarray) -> np.ndarray:
    encoded = codec.encode(x)
    assert encoded.values.shape == codec.stored_shape(x.shape)
    assert encoded.values.dtype == np.dtype(codec.stored)
    assert {k: v.shape for k, v in encoded.side.items()} == codec.side_shapes(x.shape)
    return codec.decode(encoded.values, encoded.side)


@given(
    x=arrays(np.float32, (110, 2, 3), elements=st.floats(-40, 40, width=32)),
    k=st.integers(1, 99),
)
def test_kept_classes_are_within_the_bound_and_mass_is_kept(x: np.ndarray, k: int) -> None:
    codec = TopK(k)
    kept = round_trip(codec, x)
    true = log_softmax(x)
    bound = codec.bound(x)
    assert (np.isfinite(bound).sum(axis=0) <= k).all()
    assert (np.abs(kept - true)[np.isfinite(bound)] <= bound[np.isfinite(bound)]).all()
    np.testing.assert_allclose(np.exp(kept.astype(np.float64)).sum(axis=0), 1, atol=3e-4)


def test_the_tail_shares_its_mass_evenly() -> None:
    x = np.zeros((100, 1, 1), np.float32)
    x[[7, 30], 0, 0] = [9, 8]
    kept = round_trip(TopK(2), x).ravel()
    assert kept.argsort()[::-1][:2].tolist() == [7, 30]
    tail = np.delete(kept, [7, 30])
    assert np.ptp(tail) == 0
    assert np.exp(tail[0]) == pytest.approx(np.exp(log_softmax(x)[0, 0, 0]), rel=1e-3)


def test_few_classes_and_a_single_map_are_refused() -> None:
    with pytest.raises(ArtifactError, match="100 classes and more, got shape"):
        TopK().stored_shape((19, 8, 8))
    with pytest.raises(ArtifactError, match="got shape"):
        TopK().encode(np.zeros((19, 8, 8), np.float32))
    with pytest.raises(ArtifactError, match="not finite"):
        TopK().encode(np.full((120, 2, 2), np.nan, np.float32))


def test_a_wrong_class_number_on_disk_does_not_write_elsewhere() -> None:
    encoded = TopK(3).encode(np.random.default_rng(0).normal(size=(100, 4, 4)).astype(np.float32))
    values = encoded.values.copy()
    values[:3] = 65535
    assert TopK(3).decode(values, encoded.side).shape == (100, 4, 4)
