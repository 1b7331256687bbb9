"""Steps become the values that `decode` gives, on tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stillroom.stages.train.packed.dequantise import DEQUANTISE
from stillroom.stages.train.packed.packed_batch import TYPES
from stillroom.storage_specs.codecs.table import CODECS

EXPONENTIAL = {("kl", "median"), ("log", None)}  # the rest is to the bit
CASES = [
    pytest.param(CODECS[name](**example.options), example, id=f"{name}-{example.options}")
    for name in DEQUANTISE
    for example in CODECS[name].examples
]


def test_every_codec_but_that_of_classes_is_there() -> None:
    assert set(CODECS) - set(DEQUANTISE) == {"topk"}


def elements(example):
    if example.dtype == "uint8":
        return st.integers(0, 255)
    low, high = (float(np.float32(value)) for value in (example.low, example.high))
    values = st.floats(low, high, width=32) | st.sampled_from([low, high])
    return st.just(0.0) | values if example.zero else values


@pytest.mark.parametrize(("codec", "example"), CASES)
@given(data=st.data())
def test_values_are_those_of_decode(codec, example, data) -> None:
    width = example.last or data.draw(st.integers(1, 5))
    shape = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5)), width)
    x = data.draw(arrays(example.dtype, shape, elements=elements(example)))
    encoded = codec.encode(x)
    expected = codec.decode(encoded.values.copy(), encoded.side)
    steps = np.ascontiguousarray(codec.undo_prediction(encoded.values))
    assert steps.dtype.str == codec.steps
    tensor = torch.from_numpy(steps.view("<i2") if codec.steps == "<u2" else steps)
    assert tensor.dtype == TYPES[codec.steps]
    side = {k: torch.from_numpy(v)[None, :, None, None] for k, v in encoded.side.items()}
    found = DEQUANTISE[codec.name](codec, tensor[None].clone(), side)[0]
    if (codec.name, getattr(codec, "predict", None)) not in EXPONENTIAL:
        np.testing.assert_array_equal(found.numpy(), expected)
        return
    # Eight units in the last place of what an exponential made, before the top is added to it.
    made = np.abs(expected - encoded.side["top"][:, None, None]) if encoded.side else expected
    bound = 8 * np.spacing(np.maximum(made, np.abs(expected)).astype(np.float32))
    assert (np.abs(found.numpy() - expected) <= bound).all()


@pytest.mark.parametrize("number", [1, 2, 100, 32767, 32768, 40000, 65534, 65535])
def test_steps_above_32767_are_not_negative(number) -> None:
    codec = CODECS["log"]()
    steps = np.array([[[number]]], "<u2")
    found = DEQUANTISE["log"](codec, torch.from_numpy(steps.view("<i2"))[None], {})
    np.testing.assert_allclose(found.numpy()[0], codec.decode(steps, {}), rtol=2.0**-22)
