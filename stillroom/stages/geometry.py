"""How frames, labels and artifacts are brought to a view, together.

Coordinates are canvas pixels with pixel edges at the integers: pixel i covers [i, i + 1) and its
centre is i + 0.5. Position i of a grid of stride s covers [i * s, (i + 1) * s), with its centre at
(i + 0.5) * s, on the canvas as on the output. A view maps the output point (Y, X) to the canvas
point

    y = top + Y * height / out_height,    x = left + X' * width / out_width,
    X' = out_width - X where the view is flipped, X elsewhere

and everything below samples at the centres of the output's positions. Both axes are independent, so
that sampling is one gather per axis, rows first; where every sampled point falls on the centre of a
position (identity, integer shift, flip at scale 1) values come out bit for bit.

What is given as `out` is filled and returned; without it the result has memory of its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from stillroom.stages.view_axes import axes_between, axes_under, sampled_lines, whole_of
from stillroom.stages.view_boxes import apply_boxes
from stillroom.stages.view_kernels import (
    nearest_axis,
    sample_field,
    sample_labels,
    sample_pixels,
)
from stillroom.stages.view_values import VALUE_SCALES, Sampled
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.view import View
    from stillroom.stages.view_axes import Part
    from stillroom.storage_specs.artifacts import Artifact


def apply_artifact(
    view: View,
    array: Tensor,
    artifact: Artifact,
    strides: tuple[int, int] = (1, 1),
    part: Part | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Bring an artifact's array, as it is decoded, to a view, by its row's geometry.

    Args:
        strides: canvas pixels a position of the array, output pixels a position of the result; of
            an artifact that has a stride
        part: where it lies, if it is only what `part_needed` asks for

    Returns:
        (C, h, w) float32, or (h, w) int64 of labels, or (N, 5) of boxes
    """
    match artifact.geometry:
        case "label":
            if out is None:
                out = torch.empty(view.out_height, view.out_width, dtype=torch.int64)
            return apply_label(view, array, part, out)
        case "nearest":
            return apply_nearest(view, array, part, out)
        case "image":
            return apply_image(view, array.permute(2, 0, 1), part, out)
        case "vector":
            return apply_vector(view, array, part, out)
        case "depth":
            return apply_depth(view, array, *strides, part, out)
        case "boxes":
            return apply_boxes(view, array, out)
        case "direction":
            return apply_direction(view, array, *strides, part, out)
    array = array[None] if array.ndim == 2 else array  # (h, w) -> (1, h, w)
    return apply_field(view, array, *strides, part, out)


def apply_image(
    view: View, image: Tensor, part: Part | None = None, out: Tensor | None = None
) -> Tensor:
    """Bring an image to a view: bilinear, zeros outside the canvas.

    Args:
        image: (C, H, W) uint8 or floating; uint8 as a view of (H, W, C) is the quickest

    Returns:
        (C, out_height, out_width) float32
    """
    _demand(image.ndim == 3, "an image is (C, H, W)", image)
    rows, columns = axes_between(view, part or whole_of(image), 1, 1)
    pixels = image.permute(1, 2, 0).contiguous()
    pixels = pixels if pixels.dtype == torch.uint8 else pixels.float()
    out = _room(out, (len(image), view.out_height, view.out_width), torch.float32)
    sample_pixels(pixels.numpy(), rows, columns, out.numpy())
    return out


def apply_label(
    view: View, label: Tensor, part: Part | None = None, out: Tensor | None = None
) -> Tensor:
    """Bring a label map to a view: the pixel under the sampled point, 255 outside.

    Args:
        label: (H, W) uint8
        out: uint8 or int64

    Returns:
        (out_height, out_width), uint8 unless `out` is of another type
    """
    _demand(label.ndim == 2 and label.dtype == torch.uint8, "a label map is (H, W) uint8", label)
    out = _room(out, (view.out_height, view.out_width), torch.uint8, torch.int64)
    pixels = axes_under(view, part or whole_of(label))
    sample_labels(label.contiguous().numpy(), *pixels, IGNORE, out.numpy())
    return out


def apply_nearest(
    view: View, pixels: Tensor, part: Part | None = None, out: Tensor | None = None
) -> Tensor:
    """Bring a value of each pixel to a view as its label is: of the one under the sampled point.

    Args:
        pixels: (H, W) float32

    Returns:
        (1, out_height, out_width) float32, 0 outside
    """
    _demand(pixels.ndim == 2 and pixels.dtype == torch.float32, "pixels are (H, W) float32", pixels)
    out = _room(out, (1, view.out_height, view.out_width), torch.float32)
    under = axes_under(view, part or whole_of(pixels))
    sample_labels(pixels.contiguous().numpy(), *under, 0, out[0].numpy())
    return out


def apply_field(
    view: View,
    field: Tensor,
    stride: int,
    out_stride: int,
    part: Part | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Bring a field (logits, features, confidence) to a view: bilinear, edges repeated.

    Args:
        field: (C, h, w), position i over canvas pixels [i * stride, (i + 1) * stride)
        stride, out_stride: canvas pixels a position of the field, output pixels one of the result

    Returns:
        (C, ceil(out_height / out_stride), ceil(out_width / out_stride)) float32; points outside the
        canvas repeat its edge: see `view_mask`
    """
    _demand(field.ndim == 3 and field.is_floating_point(), "a field is (C, h, w), floating", field)
    _demand(
        stride > 0 and out_stride > 0, f"strides are above 0, got {stride}, {out_stride}", field
    )
    rows, columns = axes_between(view, part or whole_of(field), stride, out_stride)
    height, width = len(rows.low), len(columns.low)
    out = _room(out, (len(field), height, width), torch.float32)
    every = rows._replace(begin=0, end=height), columns._replace(begin=0, end=width)
    sample_field(field.float().contiguous().numpy(), *every, out.numpy())
    return out


def apply_depth(
    view: View,
    depth: Tensor,
    stride: int,
    out_stride: int,
    part: Part | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Bring depth to a view: bilinear over the positions that have some, less where it enlarges.

    value = 1 / s * sum_i w_i m_i d_i / sum_i w_i m_i

    w_i: bilinear weights; m_i: 1 where d_i is not 0; s: the view's enlargement, by which things
    look nearer to a camera that stays what it is. 0, no value, where the positions with one have
    less than half of the weight, and outside the grid.

    Args:
        depth: (h, w) or (1, h, w) metres, 0 for none; the rest as for `apply_field`
    """
    depth = depth[None] if depth.ndim == 2 else depth
    sampled = _with_holes(view, depth, depth != 0, stride, out_stride, part)
    return _scaled(view, "depth", sampled.mean(), out)


def apply_direction(
    view: View,
    vectors: Tensor,
    stride: int,
    out_stride: int,
    part: Part | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Bring unit vectors, such as normals, to a view: bilinear, then of length 1 again.

    x is negated on a flip. 0, no vector, where the positions with one have less than half of the
    weight, where their mean is 0, and outside the grid.

    Args:
        vectors: (3, h, w), x to the right; all 0 for none; the rest as for `apply_field`
    """
    there = (vectors != 0).any(0, keepdim=True)
    sampled = _with_holes(view, vectors, there, stride, out_stride, part)
    return _scaled(view, "direction", sampled.unit(), out)


def _with_holes(
    view: View, grid: Tensor, there: Tensor, stride: int, out_stride: int, part: Part | None
) -> Sampled:
    part = part or whole_of(grid)
    both = torch.cat([grid.float(), there.float()])
    made = apply_field(view, both, stride, out_stride, part)
    rows, columns = axes_between(view, part, stride, out_stride)
    shown = torch.zeros(made.shape[1:], dtype=torch.bool)
    shown[rows.begin : rows.end, columns.begin : columns.end] = True
    return Sampled(made[:-1], made[-1:], shown)


def _scaled(view: View, geometry: str, made: Tensor, out: Tensor | None) -> Tensor:
    out = _room(out, tuple(made.shape), torch.float32).copy_(made)
    for channel, scale in zip(out, VALUE_SCALES[geometry](view), strict=True):
        channel *= scale
    return out


def apply_vector(
    view: View, flow: Tensor, part: Part | None = None, out: Tensor | None = None
) -> Tensor:
    """Bring optical flow to a view: bilinear, and its vectors become output pixels.

    u is multiplied by out_width / width and negated on a flip, v by out_height / height.

    Args:
        flow: (2, H, W) floating, u (to the right) and v (down) in canvas pixels

    Returns:
        (2, out_height, out_width) float32, u and v in output pixels; edges repeated outside
    """
    _demand(flow.ndim == 3 and flow.shape[0] == 2, "a flow is (2, H, W)", flow)
    made = apply_field(view, flow, 1, 1, part, out)
    return _scaled(view, "vector", made, made)


def view_mask(
    view: View,
    canvas: tuple[int, int],
    valid: tuple[int, int] | None,
    out_stride: int,
    out: Tensor | None = None,
) -> Tensor:
    """Tell the positions of a view that show the frame from those that show padding or nothing.

    A position counts where its centre lies on the output and its point lies in the valid area.

    Args:
        canvas, valid: as for `sample_view`

    Returns:
        (1, ceil(out_height / out_stride), ceil(out_width / out_stride)) bool
    """
    rows, columns = mask_spans(view, canvas, valid, out_stride)
    shape = (1, *(math.ceil(side / out_stride) for side in (view.out_height, view.out_width)))
    out = _room(out, shape, torch.bool).zero_()
    out[0, rows, columns] = True
    return out


def mask_spans(
    view: View, canvas: tuple[int, int], valid: tuple[int, int] | None, out_stride: int
) -> tuple[slice, slice]:
    """Return the rows and the columns of the positions that `view_mask` marks."""
    valid = canvas if valid is None else valid
    spans = []
    for line, *sides in zip(sampled_lines(view, out_stride), valid, canvas, strict=True):
        axis = nearest_axis(line, min(sides), 0)
        centres = math.ceil(line[2] / out_stride - 0.5)  # that lie on the output
        spans.append(slice(axis.begin, min(axis.end, centres)))
    return spans[0], spans[1]


def _room(out: Tensor | None, shape: tuple[int, ...], *dtypes: torch.dtype) -> Tensor:
    """`out` if it is given, of any of these types; else new memory of the first."""
    if out is None:
        return torch.empty(shape, dtype=dtypes[0])
    fits = tuple(out.shape) == shape and out.is_contiguous() and out.dtype in dtypes
    _demand(fits, f"out is {shape}, contiguous, {' or '.join(map(str, dtypes))}", out)
    return out


def _demand(fits: bool, rule: str, tensor: Tensor) -> None:
    if not fits:
        raise ArtifactError(f"{rule}; got {tuple(tensor.shape)} {tensor.dtype}")
