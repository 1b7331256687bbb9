"""Views: frame, label and artifacts move together, and stand still where nothing moves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stillroom.stages.geometry import (
    apply_field,
    apply_image,
    apply_label,
    apply_vector,
    view_mask,
)
from stillroom.stages.upsample import upsample_logits
from stillroom.stages.view import View, ViewConfig, identity_view, sample_view
from stillroom.stages.view_axes import Part, part_needed
from stillroom.storage_specs.errors import ArtifactError, ConfigError

CANVAS = (48, 64)


@st.composite
def views(draw):
    """Any window that still touches the canvas, at any size from a third to three times."""
    height = draw(st.floats(8, 120))
    width = draw(st.floats(8, 120))
    return View(
        top=draw(st.floats(-height + 1, CANVAS[0] - 1)),
        left=draw(st.floats(-width + 1, CANVAS[1] - 1)),
        height=height,
        width=width,
        out_height=draw(st.integers(8, 60)),
        out_width=draw(st.integers(8, 60)),
        flip=draw(st.booleans()),
    )


def sampled_points(view, out_stride=1):
    """Where the centre of each output cell lies on the canvas, written cell by cell."""
    columns = []
    for c in range(math.ceil(view.out_width / out_stride)):
        x = (c + 0.5) * out_stride
        x = view.out_width - x if view.flip else x
        columns.append(view.left + x * view.width / view.out_width)
    rows = [
        view.top + (r + 0.5) * out_stride * view.height / view.out_height
        for r in range(math.ceil(view.out_height / out_stride))
    ]
    return np.array(rows), np.array(columns)


def ramps(stride, canvas=CANVAS):
    """A field whose two channels say where each cell's centre is: y and x in canvas pixels."""
    rows = (torch.arange(math.ceil(canvas[0] / stride)) + 0.5) * stride
    columns = (torch.arange(math.ceil(canvas[1] / stride)) + 0.5) * stride
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def frame(seed=0, canvas=CANVAS):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 256, (3, *canvas), dtype=np.uint8))
    return image, torch.from_numpy(rng.integers(0, 11, canvas, dtype=np.uint8))


# identity, shifts and flips are exact


@pytest.mark.parametrize("stride", [1, 4, 8, 16])
@pytest.mark.parametrize("canvas", [CANVAS, (50, 37)])
def test_the_identity_view_changes_no_bit(stride, canvas):
    view = identity_view(canvas)
    image, label = frame(canvas=canvas)
    field = torch.randn(5, math.ceil(canvas[0] / stride), math.ceil(canvas[1] / stride))
    assert apply_image(view, image).equal(image.float())
    assert apply_image(view, image.float() / 7).equal(image.float() / 7)
    assert apply_label(view, label).equal(label)
    assert apply_field(view, field, stride, stride).equal(field)
    flow = torch.randn(2, *canvas)
    assert apply_vector(view, flow).equal(flow)


def test_the_view_of_an_empty_config_is_the_identity():
    view = sample_view(ViewConfig(), CANVAS, np.random.default_rng(0), valid=(30, 64))
    assert view == identity_view(CANVAS)


@pytest.mark.parametrize("flip", [False, True])
def test_a_shift_by_whole_cells_is_a_slice(flip):
    image, label = frame()
    field = torch.randn(5, 12, 16)
    view = View(8.0, 12.0, 32.0, 40.0, 32, 40, flip)

    def mirrored(tensor):
        return tensor.flip(-1) if flip else tensor

    assert apply_image(view, image).equal(mirrored(image[:, 8:40, 12:52].float()))
    assert apply_label(view, label).equal(mirrored(label[8:40, 12:52]))
    assert apply_field(view, field, 4, 4).equal(mirrored(field[:, 2:10, 3:13]))


def test_results_never_share_memory_with_what_they_show():
    image, label, field = torch.ones(3, *CANVAS), torch.ones(CANVAS).byte(), torch.ones(5, 12, 16)
    for view in (identity_view(CANVAS), View(8.0, 8.0, 16.0, 16.0, 16, 16)):
        apply_image(view, image).zero_()
        apply_label(view, label).zero_()
        apply_field(view, field, 4, 4).zero_()
    assert image.all()
    assert label.all()
    assert field.all()


def test_flipping_twice_is_the_identity():
    image, label = frame()
    flow = torch.randn(2, *CANVAS)
    logits = torch.randn(5, 12, 16)
    flip = View(0.0, 0.0, 48.0, 64.0, 48, 64, flip=True)
    assert not apply_image(flip, image).equal(image.float())
    assert apply_image(flip, apply_image(flip, image)).equal(image.float())
    assert apply_label(flip, apply_label(flip, label)).equal(label)
    assert apply_field(flip, apply_field(flip, logits, 4, 4), 4, 4).equal(logits)
    assert apply_vector(flip, apply_vector(flip, flow)).equal(flow)


@given(view=views())
def test_a_flipped_view_is_the_mirror_image_of_the_view(view):
    image, label = frame()
    other = View(**{**vars(view), "flip": not view.flip})
    assert apply_label(other, label).equal(apply_label(view, label).flip(-1))
    assert apply_image(other, image).allclose(apply_image(view, image).flip(-1), atol=1e-3)


# everything is sampled at the same points


@given(view=views())
def test_label_and_its_one_hot_logits_stay_within_a_pixel_under_any_view(view):
    _, label = frame(seed=4)
    one_hot = torch.nn.functional.one_hot(label.long(), 11).permute(2, 0, 1).float()
    winner = apply_field(view, one_hot, 1, 1).argmax(0)
    seen = apply_label(view, label)
    inside = seen != 255
    assert is_under(seen, label, view, 1e-9)[inside].all()
    assert is_under(winner, label, view, 1.0)[inside].all()


def is_under(found, label, view, reach):
    """Whether `label` has what was found at each point, at most `reach` pixels from the point.

    Looks at the corners of a square around the point, and at its centre, which suffices up to 1;
    so a point on a border belongs to the pixels on both sides.
    """
    rows, columns = sampled_points(view)
    is_there = np.zeros(found.shape, dtype=bool)
    for dy in (-reach, 0, reach):
        for dx in (-reach, 0, reach):
            y = np.floor(rows + dy).astype(int).clip(0, label.shape[0] - 1)
            x = np.floor(columns + dx).astype(int).clip(0, label.shape[1] - 1)
            is_there |= found.numpy() == label.numpy()[y][:, x]
    return torch.from_numpy(is_there)


def test_a_point_on_a_border_between_pixels_belongs_to_the_pixel_after_it():
    label = torch.arange(8, dtype=torch.uint8).repeat(8, 1)
    view = View(0.0, 0.0, 8.0, 8.0, 49, 49)
    assert apply_label(view, label)[24, 24] == 4  # 24.5 * 8 / 49; 8 / 49 is no floating number
    assert apply_label(view, label.T)[24, 24] == 4
    assert apply_label(View(0.0, 0.0, 8.0, 8.0, 4, 4), label)[0].tolist() == [1, 3, 5, 7]


@given(view=views(), stride=st.sampled_from([4, 8, 16]))
def test_label_and_strided_one_hot_logits_stay_within_a_pixel_under_any_view(view, stride):
    height, width = 48 // stride, 64 // stride
    cells = torch.arange(height * width).reshape(height, width)  # each cell a class of its own
    one_hot = torch.nn.functional.one_hot(cells).permute(2, 0, 1).float()
    label = cells.to(torch.uint8).repeat_interleave(stride, 0).repeat_interleave(stride, 1)
    winner = apply_field(view, one_hot, stride, 1).argmax(0)
    seen = apply_label(view, label)
    inside = seen != 255
    assert is_under(seen, label, view, 1e-9)[inside].all()
    assert is_under(winner, label, view, 1e-4)[inside].all()  # classes change where cells do


@given(
    view=views(),
    stride=st.sampled_from([1, 2, 4, 8, 16]),
    out_stride=st.sampled_from([1, 2, 4, 8, 16]),
)
def test_a_field_that_says_where_it_is_says_so_after_any_view(view, stride, out_stride):
    seen = apply_field(view, ramps(stride), stride, out_stride)
    rows, columns = sampled_points(view, out_stride)
    last = [(math.ceil(size / stride) - 0.5) * stride for size in CANVAS]
    expected_rows = np.clip(rows, 0.5 * stride, last[0])
    expected_columns = np.clip(columns, 0.5 * stride, last[1])
    assert seen.shape == (2, len(rows), len(columns))
    np.testing.assert_allclose(seen[0], np.tile(expected_rows[:, None], len(columns)), atol=1e-3)
    np.testing.assert_allclose(seen[1], np.tile(expected_columns, (len(rows), 1)), atol=1e-3)


@given(view=views())
def test_an_image_that_says_where_it_is_says_so_after_any_view(view):
    seen = apply_image(view, ramps(1))
    rows, columns = sampled_points(view)
    inside = ((rows >= 0) & (rows < 48))[:, None] & ((columns >= 0) & (columns < 64))
    expected = np.broadcast_to(np.clip(rows, 0.5, 47.5)[:, None], inside.shape)
    np.testing.assert_allclose(seen[0], np.where(inside, expected, 0), atol=1e-3)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_a_canvas_that_is_no_multiple_of_the_stride_keeps_its_cells_in_place(stride):
    canvas = (50, 37)
    view = View(3.0, 5.0, 30.0, 20.0, 45, 30, flip=True)
    seen = apply_field(view, ramps(stride, canvas), stride, stride)
    rows, columns = sampled_points(view, stride)
    np.testing.assert_allclose(seen[0, :, 0], np.maximum(rows, stride / 2), atol=1e-4)
    np.testing.assert_allclose(seen[1, 0], np.maximum(columns, stride / 2), atol=1e-4)


def test_strided_logits_of_a_flipped_odd_crop_stay_with_the_image():
    view = View(0.0, 0.0, 48.0, 62.0, 48, 62, flip=True)  # 62 is no multiple of 8
    seen = apply_field(view, ramps(8), 8, 8)
    np.testing.assert_allclose(seen[1, 0, :7], 62 - (np.arange(7) + 0.5) * 8, atol=1e-4)


# outside, and what counts


def test_outside_the_canvas_is_black_unlabelled_and_masked():
    image, label = frame()
    view = View(-10.0, -20.0, 80.0, 120.0, 80, 120)
    seen, seen_label = apply_image(view, image + 1), apply_label(view, label)
    mask = view_mask(view, CANVAS, None, 1)[0]
    assert seen[:, 10:58, 20:84].equal((image + 1).float())
    assert seen_label[10:58, 20:84].equal(label)
    assert mask.sum() == 48 * 64
    assert mask[10:58, 20:84].all()
    assert seen[:, ~mask].eq(0).all()
    assert seen_label[~mask].eq(255).all()


@given(view=views(), valid=st.tuples(st.integers(1, 48), st.integers(1, 64)))
def test_the_mask_is_where_the_sampled_point_lies_in_the_valid_area(view, valid):
    for out_stride in (1, 4, 8):
        rows, columns = sampled_points(view, out_stride)
        rows_in = (rows >= 0) & (rows < valid[0])
        columns_in = (columns >= 0) & (columns < valid[1])
        rows_in &= (np.arange(len(rows)) + 0.5) * out_stride < view.out_height
        columns_in &= (np.arange(len(columns)) + 0.5) * out_stride < view.out_width
        mask = view_mask(view, CANVAS, valid, out_stride)
        assert mask.dtype == torch.bool
        assert mask.shape == (1, len(rows), len(columns))
        np.testing.assert_array_equal(mask[0], rows_in[:, None] & columns_in)


@given(view=views())
def test_a_pixel_has_a_label_exactly_where_the_mask_says_so(view):
    _, label = frame()
    assert (apply_label(view, label) != 255).equal(view_mask(view, CANVAS, None, 1)[0])


def test_a_window_that_misses_the_canvas_shows_nothing():
    image, label = frame()
    view = View(100.0, -300.0, 16.0, 16.0, 16, 16)
    assert apply_image(view, image).eq(0).all()
    assert apply_label(view, label).eq(255).all()
    assert apply_field(view, torch.randn(5, 12, 16), 4, 4).isfinite().all()
    assert not view_mask(view, CANVAS, None, 4).any()


# flow


@given(view=views())
def test_a_vector_still_points_at_the_same_spot_of_the_canvas(view):
    flow = torch.stack([torch.full(CANVAS, 6.0), torch.full(CANVAS, -2.5)])
    seen = apply_vector(view, flow)
    rows, columns = sampled_points(view)
    # walk along the vector in the output, and see how far that is on the canvas
    sign = -1 if view.flip else 1
    moved_x = columns[0] + sign * seen[0, 0, 0].item() * view.width / view.out_width
    moved_y = rows[0] + seen[1, 0, 0].item() * view.height / view.out_height
    assert moved_x - columns[0] == pytest.approx(6.0, abs=1e-4)
    assert moved_y - rows[0] == pytest.approx(-2.5, abs=1e-4)


def test_enlarging_enlarges_vectors_and_a_flip_turns_u_round():
    flow = torch.stack([torch.full(CANVAS, 3.0), torch.full(CANVAS, 2.0)])
    seen = apply_vector(View(0.0, 0.0, 24.0, 32.0, 48, 96, flip=True), flow)
    assert seen[0].allclose(torch.tensor(-9.0))
    assert seen[1].allclose(torch.tensor(4.0))


# sampling


@given(
    seed=st.integers(0, 2**32),
    crop=st.one_of(st.none(), st.tuples(st.integers(4, 90), st.integers(4, 90))),
    low=st.floats(0.5, 1.5),
    spread=st.floats(0, 1),
    valid=st.tuples(st.integers(3, 48), st.integers(3, 64)),  # 2 pixels still show at half size
)
def test_a_sampled_window_lies_in_the_frame_or_contains_it(seed, crop, low, spread, valid):
    config = ViewConfig(crop=crop, scale=(low, low + spread), flip=True)
    view = sample_view(config, CANVAS, np.random.default_rng(seed), valid)
    assert (view.out_height, view.out_width) == (crop or CANVAS)
    enlargement = view.out_height / view.height
    assert low - 1e-9 <= enlargement <= low + spread + 1e-9
    assert view.out_width / view.width == pytest.approx(enlargement)
    for start, size, canvas, part in (
        (view.top, view.height, CANVAS[0], valid[0]),
        (view.left, view.width, CANVAS[1], valid[1]),
    ):
        extent = part if size < canvas else canvas
        slack = 1e-9 * size
        within = start >= -slack and start + size <= extent + slack
        around = start <= slack and start + size >= extent - slack
        assert within or around
    assert view_mask(view, CANVAS, valid, 1).any()


def test_at_scale_one_corners_are_whole_pixels_and_reach_every_place():
    rng = np.random.default_rng(1)
    config = ViewConfig(crop=(46, 62))
    found = [sample_view(config, CANVAS, rng) for _ in range(200)]
    assert {view.top for view in found} == {0.0, 1.0, 2.0}
    assert {view.left for view in found} == {0.0, 1.0, 2.0}


def test_a_frame_smaller_than_the_crop_is_shown_whole_anywhere_in_it():
    image, label = frame()
    rng = np.random.default_rng(2)
    corners = set()
    for _ in range(30):
        view = sample_view(ViewConfig(crop=(60, 80)), CANVAS, rng)
        seen, seen_label = apply_image(view, image), apply_label(view, label)
        top, left = int(-view.top), int(-view.left)
        corners.add((top, left))
        assert seen.shape == (3, 60, 80)
        assert seen[:, top : top + 48, left : left + 64].equal(image.float())
        assert (seen_label != 255).sum() == 48 * 64
        assert view_mask(view, CANVAS, None, 1).sum() == 48 * 64
    assert len(corners) > 20


def test_the_same_seed_is_the_same_view_and_switching_flip_on_moves_no_crop():
    plain = ViewConfig(crop=(20, 20), scale=(0.5, 1.5))
    mirrored = ViewConfig(crop=(20, 20), scale=(0.5, 1.5), flip=True)
    for seed in range(20):
        one = sample_view(plain, CANVAS, np.random.default_rng(seed))
        assert one == sample_view(plain, CANVAS, np.random.default_rng(seed))
        other = sample_view(mirrored, CANVAS, np.random.default_rng(seed))
        assert one == View(**{**vars(other), "flip": False})


def test_about_half_of_the_views_are_flipped():
    rng = np.random.default_rng(0)
    flips = sum(sample_view(ViewConfig(flip=True), CANVAS, rng).flip for _ in range(400))
    assert 150 < flips < 250


@pytest.mark.parametrize(
    "section",
    [
        {"crop": (0, 10)},
        {"crop": (10,)},
        {"scale": (1.5, 0.5)},
        {"scale": (0.0, 1.0)},
        {"scale": (1.0, float("inf"))},
        {"zoom": 2},
    ],
)
def test_a_config_that_makes_no_view_is_refused(section):
    with pytest.raises(ValidationError):
        ViewConfig(**section)


@pytest.mark.parametrize("valid", [(0, 10), (49, 64), (48, 65)])
def test_a_valid_area_beyond_the_canvas_is_refused(valid):
    with pytest.raises(ArtifactError, match="within the canvas"):
        sample_view(ViewConfig(), CANVAS, np.random.default_rng(0), valid)


@pytest.mark.parametrize("fault", [{"height": 0.0}, {"top": math.nan}, {"out_width": 0}])
def test_a_view_without_a_size_is_refused(fault):
    with pytest.raises(ConfigError, match="sizes above 0"):
        View(**{**vars(identity_view(CANVAS)), **fault})


# what the arrays must be


def test_arrays_of_another_kind_are_refused_saying_what_came():
    view = identity_view(CANVAS)
    with pytest.raises(ArtifactError, match=r"\(C, H, W\); got \(48, 64\) torch.uint8"):
        apply_image(view, torch.zeros(CANVAS, dtype=torch.uint8))
    with pytest.raises(ArtifactError, match=r"\(H, W\) uint8; got \(48, 64\) torch.int64"):
        apply_label(view, torch.zeros(CANVAS, dtype=torch.int64))
    with pytest.raises(ArtifactError, match=r"floating; got \(5, 12, 16\) torch.uint8"):
        apply_field(view, torch.zeros(5, 12, 16, dtype=torch.uint8), 4, 4)
    with pytest.raises(ArtifactError, match="strides are above 0, got 4, 0"):
        apply_field(view, torch.zeros(5, 12, 16), 4, 0)
    with pytest.raises(ArtifactError, match=r"a flow is \(2, H, W\); got \(3, 48, 64\)"):
        apply_vector(view, torch.zeros(3, *CANVAS))


def test_an_image_may_come_as_a_channels_last_view():
    image, _ = frame()
    view = View(3.3, -4.1, 30.0, 50.0, 45, 75, flip=True)
    channels_last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert apply_image(view, channels_last).equal(apply_image(view, image))
    assert apply_image(view, channels_last).is_contiguous()


# logits to pixels


@pytest.mark.parametrize(("stride", "size"), [(4, (48, 64)), (8, (50, 37)), (16, (47, 33))])
def test_upsampled_logits_lie_where_their_cells_are(stride, size):
    logits = ramps(stride, size)[None]
    seen = upsample_logits(logits, stride, size)
    assert seen.shape == (1, 2, *size)
    last = [(math.ceil(extent / stride) - 0.5) * stride for extent in size]
    rows = np.clip(np.arange(size[0]) + 0.5, stride / 2, last[0])
    columns = np.clip(np.arange(size[1]) + 0.5, stride / 2, last[1])
    np.testing.assert_allclose(seen[0, 0], np.tile(rows[:, None], size[1]), atol=1e-4)
    np.testing.assert_allclose(seen[0, 1], np.tile(columns, (size[0], 1)), atol=1e-4)


def test_upsampling_is_what_the_identity_view_of_a_field_is():
    logits = torch.randn(5, 7, 5)
    seen = upsample_logits(logits[None], 8, (50, 37))[0]
    assert seen.allclose(apply_field(identity_view((50, 37)), logits, 8, 1), atol=1e-5)


def test_upsampling_half_precision_is_done_in_float32():
    logits = torch.randn(1, 3, 4, 4)
    seen = upsample_logits(logits.half(), 4, (16, 16))
    assert seen.dtype == torch.float32
    assert seen.equal(upsample_logits(logits.half().float(), 4, (16, 16)))
    assert upsample_logits(logits.double(), 4, (16, 16)).dtype == torch.float64


@pytest.mark.parametrize("size", [(52, 64), (44, 64), (48, 60)])
def test_logits_that_do_not_cover_the_pixels_are_refused(size):
    with pytest.raises(ArtifactError, match=r"logits at stride 4 for .* got \(1, 3, 12, 16\)"):
        upsample_logits(torch.zeros(1, 3, 12, 16), 4, size)


@given(views(), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]))
def test_the_cells_that_a_view_touches_are_all_that_it_needs(view, stride, out_stride):
    rng = torch.Generator().manual_seed(0)
    field = torch.rand((3, CANVAS[0] // stride, CANVAS[1] // stride), generator=rng)
    part = part_needed(view, tuple(field.shape[1:]), stride, out_stride)
    cut = field[:, part.rows, part.columns].clone()
    whole = apply_field(view, field, stride, out_stride)
    assert torch.equal(apply_field(view, cut, stride, out_stride, part), whole)
    image = torch.randint(0, 256, (3, *CANVAS), dtype=torch.uint8, generator=rng)
    part = part_needed(view, CANVAS, 1, 1)
    at = (part.rows, part.columns)
    seen = apply_image(view, image[(slice(None), *at)].clone(), part)
    assert torch.equal(seen, apply_image(view, image))
    assert torch.equal(apply_label(view, image[0][at].clone(), part), apply_label(view, image[0]))
    flow = torch.rand((2, *CANVAS), generator=rng)
    seen = apply_vector(view, flow[(slice(None), *at)].clone(), part)
    assert torch.equal(seen, apply_vector(view, flow))


def test_a_small_crop_touches_a_small_part():
    part = part_needed(View(8, 16, 8, 12, 8, 12), CANVAS, 4, 4)
    assert part == Part(*CANVAS, slice(2, 5), slice(4, 8))
