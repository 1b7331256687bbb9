"""Codecs: |decode(encode(x)) - x| <= bound(x) for any x they accept, and refusal of the rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from stillroom.storage_specs.codecs import (
    CODECS,
    FP8,
    Byte,
    Codec,
    Exact,
    Flow,
    Half,
    Raw,
    Unit,
    codec_from_dict,
)
from stillroom.storage_specs.errors import ArtifactError, ConfigError

OF_FLOATS = [Exact(), Half(), Byte(), FP8(), Unit(), Flow()]
SHAPES = array_shapes(min_dims=3, max_dims=3, max_side=5)


def floats(largest: float) -> st.SearchStrategy[np.ndarray]:
    """Float32 arrays (C, h, w) with zeros, subnormals and extremes among them."""
    element = st.floats(-largest, largest, width=32)
    return arrays(np.float32, SHAPES, elements=element)


def round_trip(codec: Codec, x: np.ndarray) -> np.ndarray:
    encoded = codec.encode(x)
    assert encoded.values.shape == x.shape
    assert encoded.values.dtype == np.dtype(codec.stored)
    assert {k: v.shape for k, v in encoded.side.items()} == codec.side_shapes(x.shape)
    assert all(side.dtype == np.float32 for side in encoded.side.values())
    decoded = codec.decode(encoded.values, encoded.side)
    out = np.empty(decoded.shape, decoded.dtype)
    assert codec.decode(encoded.values, encoded.side, out) is out
    np.testing.assert_array_equal(out, decoded)
    return decoded


def check_bound(codec: Codec, x: np.ndarray) -> None:
    decoded = round_trip(codec, x)
    assert decoded.dtype == np.float32
    error = np.abs(decoded.astype(np.float64) - x.astype(np.float64))
    assert (error <= codec.bound(x)).all()


@settings(max_examples=300, deadline=None)
@given(x=floats(float(np.float32(1e38))))
def test_byte_errs_by_no_more_than_its_bound(x: np.ndarray) -> None:
    check_bound(Byte(), x)


@settings(max_examples=300, deadline=None)
@given(x=floats(float(np.float32(1e38))))
def test_fp8_errs_by_no_more_than_its_bound(x: np.ndarray) -> None:
    check_bound(FP8(), x)


def test_fp8_is_e4m3() -> None:
    torch = pytest.importorskip("torch")
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    floats = torch.from_numpy(values.copy()).view(torch.float8_e4m3fn).float().numpy()
    finite = np.isfinite(floats)
    assert finite.sum() == 254
    decoded = FP8().decode(values, {"scale": np.ones(1, np.float32)})
    np.testing.assert_array_equal(decoded[finite], floats[finite])
    whole = np.where(finite, floats, 0)
    np.testing.assert_array_equal(round_trip(FP8(), whole), whole)


@settings(max_examples=200, deadline=None)
@given(x=floats(65504.0))
def test_half_errs_by_no_more_than_its_bound(x: np.ndarray) -> None:
    check_bound(Half(), x)


@settings(max_examples=200, deadline=None)
@given(x=floats(32767 / 64))
def test_flow_errs_by_no_more_than_its_bound(x: np.ndarray) -> None:
    check_bound(Flow(), x)


@settings(max_examples=200, deadline=None)
@given(x=arrays(np.float32, SHAPES, elements=st.floats(0, 1, width=32)))
def test_unit_errs_by_no_more_than_its_bound(x: np.ndarray) -> None:
    check_bound(Unit(), x)


@settings(max_examples=100, deadline=None)
@given(x=floats(float(np.finfo(np.float32).max)))
def test_exact_loses_nothing(x: np.ndarray) -> None:
    np.testing.assert_array_equal(round_trip(Exact(), x), x)


@settings(max_examples=50, deadline=None)
@given(x=arrays(np.uint8, SHAPES))
def test_raw_loses_nothing(x: np.ndarray) -> None:
    np.testing.assert_array_equal(round_trip(Raw(), x), x)


def test_the_bounds_are_not_generous() -> None:
    x = np.random.default_rng(0).normal(0, 9, (4, 30, 40)).astype(np.float32)
    byte_step = (x.max(axis=(1, 2)) - x.min(axis=(1, 2))) / 255
    assert (Byte().bound(x).ravel() < 0.502 * byte_step).all()
    assert (Half().bound(x) <= np.maximum(np.abs(x) * 2.0**-11, 2.0**-25)).all()
    assert Flow().bound(x) == 1 / 128
    assert (Unit().bound(np.float32([[0.3]])) < 0.5001 / 255).all()


def test_byte_is_the_affine_map_between_least_and_greatest_of_each_channel() -> None:
    x = np.random.default_rng(1).normal(-3, 40, (5, 7, 6)).astype(np.float32)
    encoded = Byte().encode(x)
    wide = x.astype(np.float64)
    low, high = wide.min(axis=(1, 2), keepdims=True), wide.max(axis=(1, 2), keepdims=True)
    expected = np.rint((wide - low) / (high - low) * 255)
    # A value within float32's rounding of a half step may go either way.
    assert np.abs(encoded.values - expected).max() <= 1
    assert (encoded.values == expected).mean() > 0.99
    assert encoded.values.min(axis=(1, 2)).tolist() == [0] * 5
    assert encoded.values.max(axis=(1, 2)).tolist() == [255] * 5
    np.testing.assert_array_equal(encoded.side["offset"], low.ravel())


def test_a_constant_channel_is_exact_whatever_its_neighbours() -> None:
    x = np.stack([np.full((3, 4), 7.3), np.linspace(0, 1, 12).reshape(3, 4), np.zeros((3, 4))])
    decoded = round_trip(Byte(), x.astype(np.float32))
    assert (decoded[0] == np.float32(7.3)).all()
    assert (decoded[2] == 0).all()


@pytest.mark.parametrize("codec", OF_FLOATS, ids=lambda c: c.name)
@pytest.mark.parametrize("shape", [(3, 0, 5), (0, 4, 5), (0,)])
def test_an_empty_array_stays_empty(codec: Codec, shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.float32)
    assert round_trip(codec, x).shape == shape
    assert np.broadcast_to(codec.bound(x), shape).shape == shape


@pytest.mark.parametrize("codec", OF_FLOATS, ids=lambda c: c.name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_channel(codec: Codec, value: float) -> None:
    x = np.full((4, 5, 6), 0.5, np.float32)
    x[2, 1, 1] = x[3, 0, 0] = value
    with pytest.raises(ArtifactError, match=r"2 of 120 values are not finite, first in channel 2"):
        codec.encode(x)


@pytest.mark.parametrize("codec", OF_FLOATS, ids=lambda c: c.name)
def test_whole_numbers_are_refused_where_fractions_belong(codec: Codec) -> None:
    with pytest.raises(ArtifactError, match="floating-point values, got int64"):
        codec.encode(np.zeros((1, 2, 3), np.int64))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_taken_as_float32(dtype: type) -> None:
    x = np.linspace(-1, 1, 24).reshape(2, 3, 4).astype(dtype)
    for codec in (Exact(), Half(), Byte(), Flow()):
        decoded = round_trip(codec, x)
        assert decoded.dtype == np.float32
        slack = np.abs(x - x.astype(np.float32)).max()
        assert (np.abs(decoded - x) <= codec.bound(x) + slack).all()


def test_a_float64_beyond_float32_is_not_finite() -> None:
    with pytest.raises(ArtifactError, match="not finite"):
        Exact().encode(np.full((1, 1, 1), 1e300))


@pytest.mark.parametrize(
    ("codec", "value", "says"),
    [
        (Half(), 65505.0, "holds up to 65504; got 65505"),
        (Half(), -1e30, "holds up to 65504"),
        (Flow(), 512.0, "holds up to 511.98 pixels; got 512"),
        (Flow(), -512.0, "got -512"),
        (Unit(), 1.01, "holds 0 to 1; got 1.01"),
        (Unit(), -0.01, "got -0.01"),
    ],
)
def test_what_is_out_of_range_is_refused(codec: Codec, value: float, says: str) -> None:
    x = np.zeros((3, 2, 2), np.float32)
    x[1, 0, 0] = value
    with pytest.raises(ArtifactError, match=rf"1 of 12 values.*{says}.*first in channel 1"):
        codec.encode(x)


def test_a_softmax_that_rounds_above_one_is_still_a_probability() -> None:
    x = np.float32([[1 + 2.0**-22, -(2.0**-30)]])
    np.testing.assert_array_equal(round_trip(Unit(), x), [[1, 0]])


def test_a_channel_wider_than_float32_is_refused_by_byte() -> None:
    x = np.zeros((2, 1, 2), np.float32)
    x[1] = [-3e38, 3e38]
    with pytest.raises(ArtifactError, match=r"channel 1 spans -3e\+38 to 3e\+38"):
        Byte().encode(x)


def test_byte_needs_a_channel_axis_and_raw_needs_bytes() -> None:
    with pytest.raises(ArtifactError, match="channel axis"):
        Byte().encode(np.float32(1.0)[()].reshape(()))
    with pytest.raises(ArtifactError, match="takes uint8, got int64"):
        Raw().encode(np.zeros((2, 2), np.int64))


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_comes_back_from_its_json(name: str) -> None:
    codec = codec_from_dict(name)
    assert codec.name == name
    assert codec_from_dict(codec.to_dict()) == codec


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("bytes", "unknown codec 'bytes'; known: raw"),
        ({"name": "byte", "bits": 4}, "unknown option .bits.; known: predict"),
        ("kl:", "unknown"),
        ({"name": "kl", "budget": 0}, "1e-9 to 1"),
        ({"name": "kl", "budget": True}, "1e-9 to 1"),
        ({"name": "kl", "predict": "plane"}, "known: 'above', 'median'"),
        ({"name": "flow", "predict": "median"}, "known: .plane."),
        ({"name": "topk", "k": 0}, "1 to 99"),
        ({"name": "raw", "k": 1}, "it has no options"),
    ],
)
def test_an_unknown_codec_is_refused(document: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        codec_from_dict(document)  # type: ignore[arg-type]
