"""The log codec: its bound, the value that means none, and what it refuses."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.storage_specs.codecs.log import Log
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.errors import ArtifactError, ConfigError

RANGES = [(0.1, 1000.0), (0.3, 0.7), (1e-6, 1e6)]


def decoded(codec: Log, x: np.ndarray) -> np.ndarray:
    encoded = codec.encode(x)
    assert encoded.values.dtype == np.uint16
    assert not encoded.side
    return codec.decode(encoded.values, {})


@given(st.data(), st.sampled_from(RANGES))
def test_the_error_is_within_the_bound_and_a_second_round_trip_changes_nothing(
    data: st.DataObject, span: tuple[float, float]
) -> None:
    codec = Log(*span)
    low, high = float(np.float32(span[0])), float(np.float32(span[1]))
    element = st.one_of(st.just(0.0), st.floats(low, high, width=32))
    x = np.array(data.draw(st.lists(element, min_size=1, max_size=30)), np.float32)
    kept = decoded(codec, x)
    error = np.abs(kept.astype(np.float64) - x.astype(np.float64))
    assert (error <= codec.bound(x)).all()
    assert ((kept == 0) == (x == 0)).all()
    np.testing.assert_array_equal(decoded(codec, kept), kept)


def test_the_bound_is_the_one_that_the_format_states_and_is_reached() -> None:
    x = np.geomspace(0.1, 1000, 400_001).astype(np.float32)
    relative = np.abs(decoded(Log(), x).astype(np.float64) / x - 1)
    stated = math.expm1(math.log(1e4) / 65534 / 2)
    assert stated == pytest.approx(7.03e-5, rel=1e-3)
    assert 0.99 * stated < relative.max() <= stated + 2.0**-23


def test_steps_are_those_of_the_formula() -> None:
    codec = Log(0.5, 8.0)
    x = np.array([0, 0.5, 2, 8], np.float32)
    assert codec.encode(x).values.tolist() == [0, 1, 32768, 65535]
    np.testing.assert_allclose(decoded(codec, x), x, rtol=1e-7)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.nan, "not finite"),
        (np.inf, "not finite"),
        (-1.0, "out of range"),
        (0.09, r"codec log holds 0.1 to 1000, and 0 for no value; got 0.09"),
        (1000.1, "1 of 2 values are out of range"),
    ],
)
def test_what_it_cannot_hold_is_refused(value: float, says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        Log().encode(np.array([[0.0, value]], np.float32))


def test_its_options_come_back_from_json() -> None:
    for codec in (Log(), Log(1, 80)):
        assert codec_from_dict(json.loads(json.dumps(codec.to_dict()))) == codec
    assert Log(1, 80).to_dict() == {"name": "log", "low": 1.0, "high": 80.0}


@pytest.mark.parametrize(
    "options", [{"low": 0}, {"low": 2, "high": 1}, {"high": "far"}, {"high": True}, {"low": -1.0}]
)
def test_a_range_that_has_no_steps_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="codec 'log': "):
        codec_from_dict({"name": "log", **options})
