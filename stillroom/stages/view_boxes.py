"""How boxes are brought to a view: by their corners, cut to what the view shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.view import View

VISIBLE = 0.25  # of a box's area, below which what is cut off leaves too little to know it by
SMALLEST = 1.0  # pixels of the shorter side
NO_BOX = -1.0  # in place of a class


def is_box(boxes: Tensor) -> Tensor:
    """Tell which rows hold a box: (..., N) bool of (..., N, 5)."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def are_known(boxes: Tensor) -> Tensor:
    """Tell of which frames it is known what they show: (...) bool of (..., N, 5).

    Rows that hold no box have class -1; a frame whose rows are all 0 is without its boxes.
    """
    return (boxes != 0).flatten(-2).any(-1)


def apply_boxes(view: View, boxes: Tensor, out: Tensor | None = None) -> Tensor:
    """Bring boxes to a view.

    Each is cut to the view; what keeps less than a quarter of its area, or is less than a pixel
    wide or high, is left out: its row becomes 0, 0, 0, 0, -1.

    Args:
        boxes: (N, 5) floating: x0, y0, x1, y1 in canvas pixels, and class
        out: filled and returned, if it is given

    Returns:
        (N, 5) float32, corners in output pixels; rows keep their places, and a frame without its
        boxes, whose rows are all 0, stays so
    """
    across, down = view.out_width / view.width, view.out_height / view.height
    x = (boxes[:, 0:4:2].double() - view.left) * across
    y = (boxes[:, 1:4:2].double() - view.top) * down
    if view.flip:
        x = view.out_width - x.flip(1)
    cut_x, cut_y = x.clamp(0, view.out_width), y.clamp(0, view.out_height)
    (wide, high), (cut_wide, cut_high) = (
        (xs[:, 1] - xs[:, 0], ys[:, 1] - ys[:, 0]) for xs, ys in ((x, y), (cut_x, cut_y))
    )
    kept = is_box(boxes) & (cut_wide * cut_high >= VISIBLE * wide * high)
    kept &= (cut_wide >= SMALLEST) & (cut_high >= SMALLEST)
    corners = torch.stack([cut_x[:, 0], cut_y[:, 0], cut_x[:, 1], cut_y[:, 1]], dim=1)
    made = torch.zeros(boxes.shape) if out is None else out.zero_()
    made[:, :4] = torch.where(kept[:, None], corners, 0)
    if are_known(boxes):
        made[:, 4] = torch.where(kept, boxes[:, 4].double(), NO_BOX)
    return made
