"""Codecs: laws of every codec in the table, then facts of single ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stillroom.storage_specs.codecs.codec import Array, Codec, Encoded, Example, Side
from stillroom.storage_specs.codecs.floor import Floor
from stillroom.storage_specs.codecs.fp8 import FP8
from stillroom.storage_specs.codecs.plain import Exact, Half, Raw
from stillroom.storage_specs.codecs.quantised import Byte, Flow, Unit
from stillroom.storage_specs.codecs.rgb import Rgb
from stillroom.storage_specs.codecs.table import CODECS, codec_from_dict
from stillroom.storage_specs.errors import ArtifactError, ConfigError

every_codec = pytest.mark.parametrize("name", CODECS)


# ---- laws of every codec


def codec_of(name: str, example: Example) -> Codec:
    return codec_from_dict({"name": name, **example.options})


def drawn(data: st.DataObject, name: str) -> tuple[Codec, np.ndarray]:
    """A codec with some of its options, and an array that it takes."""
    example = data.draw(st.sampled_from(CODECS[name].examples))
    channels = st.integers(example.channels, example.channels + 4)
    last = st.integers(1, 5) if example.last is None else st.just(example.last)
    shape = data.draw(st.tuples(channels, st.integers(1, 5), last))
    element: st.SearchStrategy[Any] = st.integers(int(example.low), int(example.high))
    if example.dtype == "float32":
        low, high = (float(np.float32(value)) for value in (example.low, example.high))
        element = st.floats(low, high, width=32)
    element = st.one_of(st.just(0), element) if example.zero else element
    return codec_of(name, example), data.draw(arrays(example.dtype, shape, elements=element))


def round_trip(codec: Codec, x: np.ndarray) -> np.ndarray:
    encoded = codec.encode(x)
    assert encoded.values.shape == codec.stored_shape(x.shape)
    assert encoded.values.dtype == np.dtype(codec.stored)
    assert {k: v.shape for k, v in encoded.side.items()} == codec.side_shapes(x.shape)
    assert all(side.dtype == np.float32 for side in encoded.side.values())
    decoded = codec.decode(encoded.values, encoded.side)
    out = np.empty(decoded.shape, decoded.dtype)
    assert codec.decode(encoded.values, encoded.side, out) is out
    np.testing.assert_array_equal(out, decoded)
    return decoded


def check_bound(codec: Codec, x: np.ndarray) -> None:
    """The error is within the stated bound; against log_softmax where a codec keeps no more."""
    decoded = round_trip(codec, x)
    assert decoded.shape == x.shape
    assert decoded.dtype == (np.uint8 if x.dtype == np.uint8 else np.float32)
    true = x.astype(np.float64)
    if not codec.whole_logits:
        true -= true.max(axis=0)
        true -= np.log(np.exp(true).sum(axis=0))
    assert (np.abs(decoded.astype(np.float64) - true) <= codec.bound(x)).all()


@every_codec
@given(data=st.data())
def test_a_codec_errs_by_no_more_than_its_bound(name: str, data: st.DataObject) -> None:
    check_bound(*drawn(data, name))


@dataclass(frozen=True)
class Whole(Codec):
    """Rounds to whole numbers, and claims to err by half as much as it does."""

    name: ClassVar[str] = "whole"
    stored: ClassVar[str] = "<i2"
    examples: ClassVar[tuple[Example, ...]] = (Example(-99, 99),)

    def encode(self, x: Array) -> Encoded:
        return Encoded(np.rint(x).astype(self.stored), {})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        return np.add(values, 0, out=out, dtype=np.float32)

    def bound(self, x: Array) -> float:
        return 0.25


def test_a_codec_with_a_false_bound_is_found_by_its_line_in_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CODECS, "whole", Whole)
    law = test_a_codec_errs_by_no_more_than_its_bound
    with pytest.raises(AssertionError):
        law("whole")
    monkeypatch.setattr(Whole, "bound", lambda *_: 0.5)
    law("whole")


@every_codec
@given(data=st.data())
def test_the_same_array_makes_the_same_bytes_in_any_order_of_memory(
    name: str, data: st.DataObject
) -> None:
    codec, x = drawn(data, name)
    first, second = codec.encode(x), codec.encode(np.asfortranarray(x))
    np.testing.assert_array_equal(first.values, second.values)
    for role, side in first.side.items():
        np.testing.assert_array_equal(side, second.side[role])


@every_codec
@given(data=st.data())
def test_a_part_of_what_can_be_cut_decodes_as_the_part_of_the_whole(
    name: str, data: st.DataObject
) -> None:
    codec, x = drawn(data, name)
    encoded = codec.encode(x)
    if codec.tileable:
        part = codec.decode(np.ascontiguousarray(encoded.values[:, 1:, 1:]), encoded.side)
        whole = codec.decode(encoded.values, encoded.side)
        np.testing.assert_array_equal(part, whole[:, 1:, 1:])


@every_codec
def test_an_empty_array_stays_empty(name: str) -> None:
    for example in CODECS[name].examples:
        x = np.zeros((example.channels + 2, 0, example.last or 5), example.dtype)
        codec = codec_of(name, example)
        assert round_trip(codec, x).shape == x.shape
        assert np.broadcast_to(codec.bound(x), x.shape).shape == x.shape


@every_codec
def test_what_is_not_finite_or_no_fraction_is_refused(name: str) -> None:
    for example in CODECS[name].examples:
        codec = codec_of(name, example)
        x = np.full((example.channels + 3, 5, 6), 0.5, np.float32)
        if example.dtype == "uint8":
            with pytest.raises(ArtifactError, match="takes uint8, got float32"):
                codec.encode(x)
            continue
        with pytest.raises(ArtifactError, match="floating-point values, got int64"):
            codec.encode(x.astype(np.int64))
        for value in (np.nan, np.inf, -np.inf):
            x[2, 1, 1] = x[3, 0, 0] = value
            says = rf"2 of {x.size} values are not finite, first in channel 2"
            with pytest.raises(ArtifactError, match=says):
                codec.encode(x)


@every_codec
def test_a_codec_comes_back_from_its_json(name: str) -> None:
    assert codec_from_dict(name) == CODECS[name]()
    for example in CODECS[name].examples:
        codec = codec_of(name, example)
        document = json.loads(json.dumps(codec.to_dict()))
        assert document["name"] == codec.name == name
        assert document.items() >= example.options.items()
        assert codec_from_dict(document) == codec


@every_codec
def test_an_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"codec '{name}': unknown option 'nonsense'"):
        codec_from_dict({"name": name, "nonsense": 1})


# ---- single codecs


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
        (Floor(), 1.01, "holds 0 to 1; got 1.01"),
    ],
)
def test_what_is_out_of_range_is_refused(codec: Codec, value: float, says: str) -> None:
    x = np.zeros((3, 2, 2), np.float32)
    x[1, 0, 0] = value
    with pytest.raises(ArtifactError, match=rf"1 of 12 values.*{says}.*first in channel 1"):
        codec.encode(x)


def test_a_softmax_that_rounds_above_one_is_still_a_probability() -> None:
    x = np.float32([[1 + 2.0**-22, -(2.0**-30)]])
    for codec in (Unit(), Floor()):
        np.testing.assert_array_equal(round_trip(codec, x), [[1, 0]])


def test_what_floor_stores_reaches_a_threshold_of_its_steps_exactly_where_the_value_does() -> None:
    steps = np.array([float(np.float32(step / 200)) for step in range(201)], np.float32)
    below = np.nextafter(steps[1:], np.float32(0))
    np.testing.assert_array_equal(Floor().encode(steps).values, range(201))
    np.testing.assert_array_equal(Floor().encode(below).values, range(200))
    np.testing.assert_array_equal(round_trip(Floor(), steps), steps)
    values = np.random.default_rng(0).uniform(0, 1, 5000).astype(np.float32)
    stored = round_trip(Floor(), values)
    for threshold in steps:
        np.testing.assert_array_equal(stored >= threshold, values >= threshold)
    assert (stored <= values).all()


def test_a_channel_wider_than_float32_is_refused_by_byte() -> None:
    x = np.zeros((2, 1, 2), np.float32)
    x[1] = [-3e38, 3e38]
    with pytest.raises(ArtifactError, match=r"channel 1 spans -3e\+38 to 3e\+38"):
        Byte().encode(x)


def test_rgb_is_green_and_the_others_less_green_each_from_the_row_above() -> None:
    x = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    red, green, blue = np.moveaxis(x.astype(int), -1, 0)
    steps = np.stack([red - green + 128, green, blue - green + 128], axis=-1)
    d = (np.diff(steps, axis=0, prepend=0) + 128) % 256 - 128
    stored = Rgb().encode(x).values
    np.testing.assert_array_equal(stored, np.where(d >= 0, 2 * d, -2 * d - 1))
    assert Rgb().decode(stored, {}, stored) is stored  # a reader has one buffer for both
    np.testing.assert_array_equal(stored, x)
    for other in (x[..., :2], x[..., 0]):
        with pytest.raises(ArtifactError, match=r"codec rgb takes .*\(y, x, 3\), got \(7, 5"):
            Rgb().encode(other)


def test_byte_needs_a_channel_axis_and_raw_needs_bytes() -> None:
    with pytest.raises(ArtifactError, match="channel axis"):
        Byte().encode(np.float32(1.0)[()].reshape(()))
    with pytest.raises(ArtifactError, match="takes uint8, got int64"):
        Raw().encode(np.zeros((2, 2), np.int64))


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
