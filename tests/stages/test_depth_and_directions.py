"""Depth and directions, which have holes, through views: against loops in float64, and a plane."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillroom.stages.geometry import apply_artifact, apply_depth, apply_direction
from stillroom.stages.view import View, identity_view
from stillroom.stages.view_axes import part_needed
from stillroom.storage_specs.artifacts import ARTIFACTS, AXIS_LENGTHS

CANVAS = (48, 64)


@st.composite
def views(draw):
    height, width = draw(st.floats(8, 120)), draw(st.floats(8, 120))
    return View(
        draw(st.floats(-height + 1, CANVAS[0] - 1)),
        draw(st.floats(-width + 1, CANVAS[1] - 1)),
        height,
        width,
        draw(st.integers(8, 40)),
        draw(st.integers(8, 40)),
        draw(st.booleans()),
    )


def points(view, out_stride):
    """Canvas y and x of the centres of the output's cells."""
    rows = (np.arange(math.ceil(view.out_height / out_stride)) + 0.5) * out_stride
    columns = (np.arange(math.ceil(view.out_width / out_stride)) + 0.5) * out_stride
    if view.flip:
        columns = view.out_width - columns
    y = view.top + rows * view.height / view.out_height
    return y, view.left + columns * view.width / view.out_width


def enlargement(view):
    """Of areas, as a length: views of the run file enlarge both axes alike."""
    return np.sqrt(view.out_height * view.out_width / (view.height * view.width))


def by_loops(view, field, stride, out_stride):
    """Value and weight of the cells with a value, (h, w) each, float64."""
    height, width = field.shape
    rows, columns = points(view, out_stride)
    value, weight = np.zeros((2, len(rows), len(columns)))
    for r, y in enumerate(rows):
        for c, x in enumerate(columns):
            if not (0 <= y < height * stride and 0 <= x < width * stride):
                continue
            i, j = np.clip([y / stride - 0.5, x / stride - 0.5], 0, [height - 1, width - 1])
            for row in {int(i), min(int(i) + 1, height - 1)}:
                for column in {int(j), min(int(j) + 1, width - 1)}:
                    w = max(0, 1 - abs(i - row)) * max(0, 1 - abs(j - column))
                    weight[r, c] += w * (field[row, column] != 0)
                    value[r, c] += w * field[row, column]
    with np.errstate(invalid="ignore"):
        return np.where(weight >= 0.5, value / weight, 0), weight


def plane(stride):
    """Depth at each cell's centre, rising down and to the right."""
    rows, columns = ((np.arange(size // stride) + 0.5) * stride for size in CANVAS)
    return (2 + 0.1 * rows[:, None] + 0.05 * columns).astype(np.float32)


def with_holes(field, share, seed=0):
    holes = np.random.default_rng(seed).random(field.shape) < share
    return np.where(holes, np.float32(0), field)


@given(views(), st.sampled_from([1, 4]), st.sampled_from([1, 2, 4]), st.sampled_from([0, 0.3, 1]))
def test_depth_is_the_weighted_mean_of_the_cells_with_a_value_over_the_enlargement(
    view, stride, out_stride, share
):
    field = with_holes(plane(stride), share)
    made = apply_depth(view, torch.from_numpy(field[None]), stride, out_stride)[0].numpy()
    expected, weight = by_loops(view, field, stride, out_stride)
    expected = expected / enlargement(view)
    clear = np.abs(weight - 0.5) > 1e-5  # at the half itself rounding decides
    np.testing.assert_allclose(made[clear], expected[clear], rtol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_a_plane_is_nearer_by_the_scale_and_its_holes_stay_holes(scale, flip):
    view = View(6.0, 9.0, 32 / scale, 40 / scale, 32, 40, flip)
    stride = 2
    field = plane(stride)
    field[8:14, 10:20] = 0  # canvas rows 16 to 27, columns 20 to 39
    made = apply_depth(view, torch.from_numpy(field[None]), stride, 4)[0].numpy()
    rows, columns = points(view, 4)
    expected = (2 + 0.1 * rows[:, None] + 0.05 * columns) / scale
    inside = (rows < 47)[:, None] & (columns < 63)
    near_hole = ((rows > 15) & (rows < 29))[:, None] & ((columns > 19) & (columns < 41))
    in_hole = ((rows > 17) & (rows < 27))[:, None] & ((columns > 21) & (columns < 39))
    np.testing.assert_allclose(made[inside & ~near_hole], expected[inside & ~near_hole], rtol=1e-5)
    assert in_hole.any()
    assert (made[in_hole] == 0).all()
    found = made[made != 0]
    assert field[field > 0].min() <= found.min() * scale * (1 + 1e-6)
    assert found.max() * scale <= field.max() * (1 + 1e-6)


def test_the_identity_and_two_flips_change_no_bit_and_nothing_lies_outside():
    field = torch.from_numpy(with_holes(plane(4), 0.3)[None])
    assert apply_depth(identity_view(CANVAS), field, 4, 4).equal(field)
    flip = View(0.0, 0.0, 48.0, 64.0, 48, 64, flip=True)
    once = apply_depth(flip, field, 4, 4)
    assert once.equal(field.flip(-1))
    assert apply_depth(flip, once, 4, 4).equal(field)
    beyond = apply_depth(View(40.0, 60.0, 48.0, 64.0, 48, 64), field + 1, 4, 4)
    assert beyond[:, 2:].eq(0).all()
    assert beyond[:, :, 1:].eq(0).all()
    assert beyond[0, 0, 0] > 0


@given(views(), st.sampled_from([1, 4]), st.sampled_from([1, 4]))
def test_the_part_that_a_view_needs_is_enough(view, stride, out_stride):
    field = torch.from_numpy(with_holes(plane(stride), 0.3)[None])
    part = part_needed(view, tuple(field.shape[1:]), stride, out_stride)
    cut = field[:, part.rows, part.columns].clone()
    whole = apply_depth(view, field, stride, out_stride)
    assert torch.equal(apply_depth(view, cut, stride, out_stride, part), whole)


def unit_vectors(size, share=0.0):
    """Directions that turn smoothly over the grid, with holes, (3, h, w)."""
    rows, columns = np.indices(size) / 10
    vectors = np.stack([np.sin(columns), np.cos(rows) - 0.5, -1 - 0 * rows])
    vectors /= np.linalg.norm(vectors, axis=0)
    return with_holes(np.ones(size, np.float32), share) * vectors.astype(np.float32)


@given(views(), st.sampled_from([1, 4]), st.sampled_from([1, 4]), st.sampled_from([0, 0.3, 1]))
def test_directions_are_the_mean_direction_of_the_cells_with_one(view, stride, out_stride, share):
    vectors = unit_vectors([side // stride for side in CANVAS], share)
    made = apply_direction(view, torch.from_numpy(vectors), stride, out_stride).numpy()
    there = vectors.any(0)
    # a component may be 0 where there is a vector: 9 more, and it counts
    raised = [by_loops(view, (axis + 9.0) * there, stride, out_stride) for axis in vectors]
    weight, mean = raised[0][1], np.stack([value for value, _ in raised]) - 9
    expected = np.where(weight >= 0.5, mean / np.linalg.norm(mean, axis=0), 0)
    expected[0] *= -1 if view.flip else 1
    clear = np.abs(weight - 0.5) > 1e-5
    np.testing.assert_allclose(made[:, clear], expected[:, clear], atol=1e-5)
    known = made.any(0)
    np.testing.assert_allclose(np.linalg.norm(made, axis=0)[known], 1, rtol=1e-5)


def test_a_mirrored_direction_looks_the_other_way_and_opposite_ones_have_none_between_them():
    vectors = torch.from_numpy(unit_vectors(CANVAS))
    flip = View(0.0, 0.0, 48.0, 64.0, 48, 64, flip=True)
    once = apply_direction(flip, vectors, 1, 1)
    mirrored = torch.stack([-vectors[0], vectors[1], vectors[2]]).flip(-1)
    torch.testing.assert_close(once, mirrored, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(apply_direction(flip, once, 1, 1), vectors, rtol=1e-6, atol=1e-6)
    opposite = torch.zeros(3, 1, 2)
    opposite[2, 0, 0], opposite[2, 0, 1] = 1, -1
    between = apply_direction(View(0.0, 0.5, 1.0, 1.0, 1, 1), opposite, 1, 1)
    assert between.flatten().tolist() == [0, 0, 0]


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_every_artifact_comes_back_from_the_identity_view_as_it_is(artifact):
    row = ARTIFACTS[artifact]
    rng = np.random.default_rng(0)
    lengths = {"channel": 3, "y": 12, "x": 16, "box": 2, **AXIS_LENGTHS}
    array = rng.integers(0, 5, [lengths[axis] for axis in row.axes]).astype(row.dtype)
    if row.geometry == "direction":
        array = np.eye(3, dtype=row.dtype)[:, rng.integers(0, 3, array.shape[1:])]  # along axes
    if row.geometry == "boxes":
        array = np.array([[1, 2, 7, 10, 3], [0, 0, 0, 0, -1]], row.dtype)
    strides = (4, 4) if row.has_stride else (1, 1)
    size = (12 * strides[0], 16 * strides[0])
    made = apply_artifact(identity_view(size), torch.from_numpy(array), row, strides)
    expected = array.transpose(2, 0, 1) if row.geometry == "image" else array
    np.testing.assert_array_equal(made.squeeze(0), expected)
