"""Boxes through a view: their corners move with the picture, and what is cut off is dropped."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillroom.stages.geometry import apply_label
from stillroom.stages.view import View, identity_view
from stillroom.stages.view_boxes import apply_boxes, are_known

NONE = [0, 0, 0, 0, -1]


@given(
    top=st.integers(-8, 20),
    left=st.integers(-8, 20),
    scale=st.sampled_from([1, 2, 3]),
    flip=st.booleans(),
    corners=st.tuples(*[st.integers(0, 24)] * 2, *[st.integers(1, 16)] * 2),
)
def test_a_box_is_where_the_pixels_are_that_it_stands_around(top, left, scale, flip, corners):
    x, y, width, height = corners
    painted = torch.zeros(40, 40, dtype=torch.uint8)
    painted[y : y + height, x : x + width] = 1
    view = View(float(top), float(left), 16.0, 12.0, 16 * scale, 12 * scale, flip)
    shown = apply_label(view, painted).numpy() == 1
    (made,) = apply_boxes(view, torch.tensor([[x, y, x + width, y + height, 3.0]])).tolist()
    if shown.sum() < 0.25 * width * height * scale**2:
        assert made == NONE
    else:
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        assert made == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, 3]


def test_rows_keep_their_places_and_what_is_too_small_goes():
    view = View(0.0, 0.0, 40.0, 40.0, 20, 20)
    boxes = torch.tensor([[0, 0, 1.9, 30, 0], [4, 4, 8, 6, 2], NONE, [-30, 0, 9, 40, 1]])
    made = apply_boxes(view, boxes)
    assert made.tolist() == [NONE, [2, 2, 4, 3, 2], NONE, NONE]
    assert torch.equal(apply_boxes(view, boxes, out=torch.full((4, 5), math.nan)), made)


@pytest.mark.parametrize("known", [True, False])
def test_a_frame_without_objects_is_told_from_one_whose_boxes_are_not_known(known):
    rows = torch.tensor([NONE if known else [0.0] * 5] * 3)
    assert bool(are_known(rows)) == known
    assert torch.equal(apply_boxes(identity_view((8, 8)), rows), rows)
    assert are_known(torch.stack([rows, torch.ones(3, 5)])).tolist() == [known, True]
