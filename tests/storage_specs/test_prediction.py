"""Prediction: the compiled undoing gives back the steps, whatever they are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from stillroom.storage_specs.codecs.kernels import undo_above, undo_median, undo_plane
from stillroom.storage_specs.codecs.prediction import differences_of, steps_of
from stillroom.storage_specs.codecs.quantised import Byte, Flow

SHAPES = array_shapes(min_dims=3, max_dims=3, max_side=7)


@given(steps=st.sampled_from(["u1", "u2"]).flatmap(lambda dtype: arrays(dtype, SHAPES)))
def test_median_predicted_steps_come_back(steps: np.ndarray) -> None:
    most = int(np.iinfo(steps.dtype).max)
    table = np.broadcast_to(np.arange(most + 1, dtype=np.float32), (len(steps), most + 1))
    out = np.full(steps.shape, np.nan, np.float32)
    undo_median(differences_of(steps, "median"), table, most, out)
    np.testing.assert_array_equal(out, steps)


@given(steps=st.sampled_from(["u1", "u2"]).flatmap(lambda dtype: arrays(dtype, SHAPES)))
def test_differences_become_steps_again(steps: np.ndarray) -> None:
    rules = ["median", "above", "plane"] if steps.dtype.itemsize == 2 else ["median"]
    for rule in rules:
        found = steps_of(differences_of(steps, rule), rule)
        assert found.dtype == (np.int16 if rule == "plane" else steps.dtype)
        np.testing.assert_array_equal(found.view(steps.dtype), steps)


@given(steps=arrays("u2", SHAPES))
def test_above_predicted_steps_come_back(steps: np.ndarray) -> None:
    out = np.full(steps.shape, np.nan, np.float32)
    top, step = np.zeros(len(steps), np.float32), np.full(len(steps), -1, np.float32)
    undo_above(differences_of(steps, "above"), top, step, out)
    np.testing.assert_array_equal(out, steps)


@given(steps=arrays("<i2", SHAPES))
def test_plane_predicted_steps_come_back(steps: np.ndarray) -> None:
    out = np.full(steps.shape, np.nan, np.float32)
    undo_plane(differences_of(steps.view("<u2"), "plane"), 1.0, out)
    np.testing.assert_array_equal(out, steps)


def test_a_plane_is_foretold_exactly_and_an_edge_once() -> None:
    y, x = np.mgrid[:6, :8]
    plane = (3 * y + 2 * x + 5)[None].astype(np.uint16)
    assert np.count_nonzero(differences_of(plane, "plane")[0, 1:, 1:]) == 0
    edge = np.where(x < 4, 10, 200)[None].astype(np.uint8)
    assert np.count_nonzero(differences_of(edge, "median")) == 2  # the corner, and the first row's


def test_each_channel_has_its_own_table() -> None:
    steps = np.array([[[0, 1]], [[1, 0]], [[1, 1]]], np.uint8)
    table = np.array([[5, 6], [7, 8], [9, 10]], np.float32)
    out = np.zeros(steps.shape, np.float32)
    undo_median(differences_of(steps, "median"), table, 255, out)
    np.testing.assert_array_equal(out, [[[5, 6]], [[8, 7]], [[10, 10]]])


@given(x=arrays(np.float32, SHAPES, elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_predicted_bytes_are_the_same_numbers_as_plain_ones(x: np.ndarray) -> None:
    plain, predicted = Byte().encode(x), Byte(predict="median").encode(x)
    decoded = Byte(predict="median").decode(predicted.values, predicted.side)
    np.testing.assert_array_equal(decoded, Byte().decode(plain.values, plain.side))


@given(x=arrays(np.float32, SHAPES, elements=st.floats(-511, 511, width=32)))
def test_predicted_flow_is_the_same_as_plain_flow(x: np.ndarray) -> None:
    plain, predicted = Flow().encode(x), Flow(predict="plane").encode(x)
    assert predicted.values.dtype == np.dtype(Flow(predict="plane").stored)
    decoded = Flow(predict="plane").decode(predicted.values, predicted.side)
    np.testing.assert_array_equal(decoded, Flow().decode(plain.values, plain.side))
