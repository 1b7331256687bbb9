"""What the compiled kernels sample is, to the bit, what PyTorch gathers and blends axis by axis.

The reference here is the plain arithmetic: positions in float64 NumPy, an index_select and a
torch.lerp per axis, rows first, over channels-first tensors.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillroom.stages.geometry import (
    apply_artifact,
    apply_field,
    apply_image,
    apply_label,
    view_mask,
)
from stillroom.stages.view import View
from stillroom.stages.view_axes import part_needed
from stillroom.storage_specs.artifacts import ARTIFACTS
from stillroom.storage_specs.errors import ArtifactError

CANVAS = (48, 64)


@st.composite
def views(draw):
    """Any window near the canvas; half of them at scale 1 on whole pixels."""
    out_height, out_width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    flip = draw(st.booleans())
    if draw(st.booleans()):
        top, left = draw(st.integers(-60, 60)), draw(st.integers(-80, 80))
        return View(top, left, out_height, out_width, out_height, out_width, flip)
    height, width = draw(st.floats(0.5, 150)), draw(st.floats(0.5, 150))
    top, left = draw(st.floats(-160, 60)), draw(st.floats(-160, 80))
    return View(top, left, height, width, out_height, out_width, flip)


def points(view, out_stride):
    """Canvas coordinates of the outputs' centres: rows, columns."""
    rows = np.arange(0.5, math.ceil(view.out_height / out_stride)) * out_stride
    columns = np.arange(0.5, math.ceil(view.out_width / out_stride)) * out_stride
    columns = view.out_width - columns if view.flip else columns
    return (
        view.top + rows * view.height / view.out_height,
        view.left + columns * view.width / view.out_width,
    )


def blended(grid, dim, positions):
    size = grid.shape[dim]
    positions = positions.clip(0, size - 1)
    whole = np.rint(positions)
    positions = np.where(np.abs(positions - whole) < 1e-9, whole, positions)
    low = np.floor(positions).astype(np.int64)
    one = grid.index_select(dim, torch.from_numpy(low))
    fraction = positions - low
    if not fraction.any():
        return one
    other = grid.index_select(dim, torch.from_numpy(np.minimum(low + 1, size - 1)))
    shape = (-1, 1) if dim == 1 else (-1,)
    return torch.lerp(one, other, torch.from_numpy(fraction.astype(np.float32)).reshape(shape))


def field_of(view, field, stride, out_stride):
    rows, columns = points(view, out_stride)
    return blended(blended(field, 1, rows / stride - 0.5), 2, columns / stride - 0.5)


def off_canvas(view):
    rows, columns = points(view, 1)
    inside = [(p >= 0) & (p < size) for p, size in zip((rows, columns), CANVAS, strict=True)]
    return torch.from_numpy(~(inside[0][:, None] & inside[1]))


def image_of(view, pixels):
    made = field_of(view, pixels.permute(2, 0, 1).float(), 1, 1)
    return made.masked_fill(off_canvas(view), 0)


def label_of(view, label):
    rows, columns = (
        np.floor(p).clip(0, size - 1).astype(np.int64)
        for p, size in zip(points(view, 1), CANVAS, strict=True)
    )
    return label[rows][:, columns].masked_fill(off_canvas(view), 255)


def bits(tensor):
    return tensor.view(torch.int32)


def arrays(seed, channels, stride):
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (*CANVAS, 3), dtype=np.uint8))
    label = torch.from_numpy(rng.integers(0, 20, CANVAS, dtype=np.uint8))
    cells = (math.ceil(CANVAS[0] / stride), math.ceil(CANVAS[1] / stride))
    field = torch.from_numpy(rng.normal(0, 7, (channels, *cells)).astype(np.float32))
    return pixels, label, field


@given(
    view=views(),
    seed=st.integers(0, 99),
    channels=st.sampled_from([1, 2, 19]),
    stride=st.sampled_from([1, 3, 4, 8, 16]),
    out_stride=st.sampled_from([1, 4, 8]),
)
def test_every_bit_is_that_of_gathers_and_lerps_axis_by_axis(
    view, seed, channels, stride, out_stride
):
    pixels, label, field = arrays(seed, channels, stride)
    image = apply_image(view, pixels.permute(2, 0, 1))
    assert image.is_contiguous()
    assert torch.equal(bits(image), bits(image_of(view, pixels)))
    floats = pixels.permute(2, 0, 1).float() / 7  # channels first, as no cache holds it
    expected = field_of(view, floats, 1, 1).masked_fill(off_canvas(view), 0)
    assert torch.equal(bits(apply_image(view, floats)), bits(expected))
    assert torch.equal(apply_label(view, label), label_of(view, label))
    wanted = field_of(view, field, stride, out_stride)
    assert torch.equal(bits(apply_field(view, field, stride, out_stride)), bits(wanted))


@given(view=views(), seed=st.integers(0, 99), stride=st.sampled_from([1, 4, 8]))
def test_a_part_of_an_array_gives_what_the_whole_of_it_gives(view, seed, stride):
    pixels, label, field = arrays(seed, 5, stride)
    part = part_needed(view, CANVAS, 1, 1)
    seen = apply_image(view, pixels[part.rows, part.columns].permute(2, 0, 1), part)
    assert torch.equal(seen, image_of(view, pixels))
    seen = apply_label(view, label[part.rows, part.columns], part)
    assert torch.equal(seen, label_of(view, label))
    part = part_needed(view, tuple(field.shape[1:]), stride, stride)
    seen = apply_field(view, field[:, part.rows, part.columns], stride, stride, part)
    assert torch.equal(seen, field_of(view, field, stride, stride))


@given(view=views(), seed=st.integers(0, 99))
def test_what_is_filled_is_what_is_returned_whatever_was_there(view, seed):
    pixels, label, field = arrays(seed, 5, 4)
    for artifact, array, strides in (
        ("frames", pixels, (1, 1)),
        ("labels", label, (1, 1)),
        ("logits", field, (4, 4)),
        ("depth", field.relu()[:1], (4, 4)),
        ("flow", torch.stack([label, label]).float(), (1, 1)),
    ):
        expected = apply_artifact(view, array, ARTIFACTS[artifact], strides)
        out = torch.full_like(expected, 99)
        assert apply_artifact(view, array, ARTIFACTS[artifact], strides, out=out) is out
        assert torch.equal(out, expected)
    mask = torch.ones(1, view.out_height, view.out_width, dtype=torch.bool)
    assert view_mask(view, CANVAS, None, 1, mask) is mask
    assert torch.equal(mask[0], ~off_canvas(view))


@pytest.mark.parametrize(
    "out",
    [
        torch.empty(3, 8, 9),
        torch.empty(1, 8, 10),
        torch.empty(3, 10, 8).mT,
        torch.empty(3, 8, 10, dtype=torch.uint8),
    ],
)
def test_a_place_of_another_kind_is_refused(out):
    view = View(0.0, 0.0, 8.0, 10.0, 8, 10)
    with pytest.raises(ArtifactError, match=r"out is \(3, 8, 10\), contiguous, torch.float32; got"):
        apply_image(view, torch.zeros(3, *CANVAS), out=out)
