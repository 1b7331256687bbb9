"""How frames, labels and artifacts are brought to a view, together.

Coordinates are canvas pixels with pixel edges at the integers: pixel i covers [i, i + 1) and its
centre is i + 0.5. Position i of a grid of stride s covers [i * s, (i + 1) * s), with its centre at
(i + 0.5) * s, on the canvas as on the output. A view maps the output point (Y, X) to the canvas
point

    y = top + Y * height / out_height,    x = left + X' * width / out_width,
    X' = out_width - X where the view is flipped, X elsewhere

and everything below samples at the centres of the output's positions. Both axes are independent, so
that sampling is one gather per axis; where every sampled point falls on the centre of a position
(identity, integer shift, flip at scale 1) it is a slice, and values come out bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from stillroom.stages.view import View
    from stillroom.storage_specs.artifacts import Artifact

    Floats = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.int64]

_SNAP = 1e-9  # positions; a strided position is a quotient and may miss its integer by rounding


@dataclass(frozen=True)
class Part:
    """Where an array that is a window of a larger grid lies in it: positions.

    Attributes:
        height, width: of the whole grid
        rows, columns: that the array holds
    """

    height: int
    width: int
    rows: slice
    columns: slice


def part_needed(view: View, size: tuple[int, int], stride: int, out_stride: int) -> Part:
    """Find the positions of a grid that a view needs: given these, `apply_*` need no others.

    Args:
        size: (height, width) of the grid in positions
        stride, out_stride: as for `apply_field`; 1, 1 for what has no stride
    """
    spans = []
    for points, length in (
        (_rows(view, out_stride), size[0]),
        (_columns(view, out_stride), size[1]),
    ):
        positions, first = _window(points / stride - 0.5, length)
        spans.append(slice(first, min(first + int(positions.max()) + 2, length)))
    return Part(*size, *spans)


def apply_artifact(
    view: View,
    array: Tensor,
    artifact: Artifact,
    strides: tuple[int, int] = (1, 1),
    part: Part | None = None,
) -> Tensor:
    """Bring an artifact's array, as it is decoded, to a view, by its row's geometry.

    Args:
        strides: canvas pixels a position of the array, output pixels a position of the result; of
            an artifact that has a stride
        part: where it lies, if it is only what `part_needed` asks for

    Returns:
        (C, h, w) float32, or (h, w) int64 of labels
    """
    match artifact.geometry:
        case "label":
            return apply_label(view, array, part).long()
        case "image":
            return apply_image(view, array.permute(2, 0, 1), part)
        case "vector":
            return apply_vector(view, array, part)
    array = array[None] if array.ndim == 2 else array  # (h, w) -> (1, h, w)
    apply = apply_masked_field if artifact.geometry == "masked_field" else apply_field
    return apply(view, array, *strides, part)


def apply_image(view: View, image: Tensor, part: Part | None = None) -> Tensor:
    """Bring an image to a view: bilinear, zeros outside the canvas.

    Args:
        image: (C, H, W) uint8 or floating

    Returns:
        (C, out_height, out_width) float32, never sharing memory with `image`
    """
    _demand(image.ndim == 3, "an image is (C, H, W)", image)
    rows, columns = _rows(view, 1), _columns(view, 1)
    part = part or _all_of(image)
    made = _bilinear(image, rows - 0.5, columns - 0.5, part)
    return _clear_outside(made, rows, columns, (part.height, part.width), 0)


def apply_label(view: View, label: Tensor, part: Part | None = None) -> Tensor:
    """Bring a label map to a view: the pixel under the sampled point, 255 outside.

    Args:
        label: (H, W) uint8

    Returns:
        (out_height, out_width) uint8, never sharing memory with `label`
    """
    _demand(label.ndim == 2 and label.dtype == torch.uint8, "a label map is (H, W) uint8", label)
    part = part or _all_of(label)
    height, width = part.height, part.width
    rows, columns = _rows(view, 1), _columns(view, 1)
    row_index = np.floor(rows).clip(0, height - 1).astype(np.int64) - part.rows.start
    column_index = np.floor(columns).clip(0, width - 1).astype(np.int64) - part.columns.start
    made = _take(_take(label, 0, row_index), 1, column_index).clone(
        memory_format=torch.contiguous_format
    )
    return _clear_outside(made, rows, columns, (height, width), IGNORE)


def apply_field(
    view: View, field: Tensor, stride: int, out_stride: int, part: Part | None = None
) -> Tensor:
    """Bring a field (logits, features, confidence) to a view: bilinear, edges repeated.

    Args:
        field: (C, h, w), position i over canvas pixels [i * stride, (i + 1) * stride)
        stride, out_stride: canvas pixels a position of the field, output pixels one of the result

    Returns:
        (C, ceil(out_height / out_stride), ceil(out_width / out_stride)) float32, never
        sharing memory with `field`; points outside the canvas repeat its edge: see `view_mask`
    """
    _demand(field.ndim == 3 and field.is_floating_point(), "a field is (C, h, w), floating", field)
    _demand(
        stride > 0 and out_stride > 0, f"strides are above 0, got {stride}, {out_stride}", field
    )
    rows = _rows(view, out_stride) / stride - 0.5
    columns = _columns(view, out_stride) / stride - 0.5
    return _bilinear(field, rows, columns, part or _all_of(field))


def apply_masked_field(
    view: View, field: Tensor, stride: int, out_stride: int, part: Part | None = None
) -> Tensor:
    """Bring a field with holes (depth) to a view: bilinear over the positions that have a value.

    value = sum_i w_i m_i d_i / sum_i w_i m_i,  m_i = 1 where d_i is not 0; w_i: bilinear weights

    0, no value, where those positions have less than half of the weight, and outside the grid. What
    the field measures does not depend on the view: metres stay metres, however much it enlarges.

    Args:
        field: (C, h, w); the rest as for `apply_field`
    """
    part = part or _all_of(field)
    there = (field != 0).to(field.dtype)
    made, weight = apply_field(view, torch.cat([field, there]), stride, out_stride, part).chunk(2)
    made = torch.where(weight < 0.5, 0, made / weight)
    size = (part.height * stride, part.width * stride)
    return _clear_outside(made, _rows(view, out_stride), _columns(view, out_stride), size, 0)


def apply_vector(view: View, flow: Tensor, part: Part | None = None) -> Tensor:
    """Bring optical flow to a view: bilinear, and its vectors become output pixels.

    u is multiplied by out_width / width and negated on a flip, v by out_height / height.

    Args:
        flow: (2, H, W) floating, u (to the right) and v (down) in canvas pixels

    Returns:
        (2, out_height, out_width) float32, u and v in output pixels; edges repeated outside
    """
    _demand(flow.ndim == 3 and flow.shape[0] == 2, "a flow is (2, H, W)", flow)
    made = apply_field(view, flow, 1, 1, part)
    made[0] *= (-1 if view.flip else 1) * (view.out_width / view.width)
    made[1] *= view.out_height / view.height
    return made


def view_mask(
    view: View, canvas: tuple[int, int], valid: tuple[int, int] | None, out_stride: int
) -> Tensor:
    """Tell the positions of a view that show the frame from those that show padding or nothing.

    A position counts where its centre lies on the output and its point lies in the valid area.

    Args:
        canvas, valid: as for `sample_view`

    Returns:
        (1, ceil(out_height / out_stride), ceil(out_width / out_stride)) bool
    """
    height, width = canvas if valid is None else valid
    rows = _inside(_rows(view, out_stride), min(height, canvas[0]))
    columns = _inside(_columns(view, out_stride), min(width, canvas[1]))
    rows &= _centres(view.out_height, out_stride) < view.out_height
    columns &= _centres(view.out_width, out_stride) < view.out_width
    return torch.from_numpy(rows[None, :, None] & columns[None, None, :])


def upsample_logits(logits: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Bring logits to the image's pixels: bilinear by exactly `stride`, then cropped.

    Resizing to `size` instead would move every position where `size` is no multiple of the stride.

    Args:
        logits: (B, C, ceil(H / stride), ceil(W / stride))
        size: (H, W)

    Returns:
        (B, C, H, W), float32 (float64 stays)
    """
    height, width = size
    expected = (math.ceil(height / stride), math.ceil(width / stride))
    _demand(
        logits.ndim == 4 and tuple(logits.shape[2:]) == expected,
        f"logits at stride {stride} for {height}x{width} pixels are (B, C, {expected[0]}, "
        f"{expected[1]})",
        logits,
    )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if stride > 1:
        logits = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    return logits[:, :, :height, :width]


def _centres(out_size: int, out_stride: int) -> Floats:
    return np.arange(0.5, math.ceil(out_size / out_stride)) * out_stride


def _rows(view: View, out_stride: int) -> Floats:
    """Canvas y of the centres of the output's rows; multiplied first, to be rounded once."""
    return view.top + _centres(view.out_height, out_stride) * view.height / view.out_height


def _columns(view: View, out_stride: int) -> Floats:
    """Canvas x of the centres of the output's columns."""
    centres = _centres(view.out_width, out_stride)
    if view.flip:
        centres = view.out_width - centres
    return view.left + centres * view.width / view.out_width


def _inside(points: Floats, size: int) -> npt.NDArray[np.bool_]:
    return (points >= 0) & (points < size)


def _clear_outside(
    made: Tensor, rows: Floats, columns: Floats, size: tuple[int, int], value: int
) -> Tensor:
    """Put a value where the sampled point lies outside an area of `size` from the top left."""
    made[..., torch.from_numpy(~_inside(rows, size[0])), :] = value
    made[..., torch.from_numpy(~_inside(columns, size[1]))] = value
    return made


def _all_of(grid: Tensor) -> Part:
    height, width = grid.shape[-2:]
    return Part(height, width, slice(0, height), slice(0, width))


def _bilinear(grid: Tensor, rows: Floats, columns: Floats, part: Part) -> Tensor:
    """Sample (C, h, w) at fractional indices, clamped to its edges, as float32."""
    rows, top = _window(rows, part.height)
    columns, left = _window(columns, part.width)
    top, left = top - part.rows.start, left - part.columns.start
    grid = grid[:, top : top + int(rows.max()) + 2, left : left + int(columns.max()) + 2]
    made = _lerp(_lerp(grid.to(torch.float32), 1, rows), 2, columns)
    if made.untyped_storage().data_ptr() == grid.untyped_storage().data_ptr():
        return made.clone(memory_format=torch.contiguous_format)
    return made.contiguous()


def _window(positions: Floats, size: int) -> tuple[Floats, int]:
    """Clamp and snap positions; return them from the first position in use, and that position."""
    positions = positions.clip(0, size - 1)
    whole = np.rint(positions)
    positions = np.where(np.abs(positions - whole) < _SNAP, whole, positions)
    first = int(positions.min())
    return positions - first, first


def _lerp(grid: Tensor, dim: int, positions: Floats) -> Tensor:
    low = np.floor(positions).astype(np.int64)
    fraction = positions - low
    if not fraction.any():
        return _take(grid, dim, low)
    high = np.minimum(low + 1, grid.shape[dim] - 1)
    weight = torch.from_numpy(fraction.astype(np.float32))
    weight = weight[:, None] if dim == 1 else weight
    return torch.lerp(_take(grid, dim, low), _take(grid, dim, high), weight)


def _take(grid: Tensor, dim: int, index: Indices) -> Tensor:
    """Gather along one axis; a slice where the indices are consecutive, up or down."""
    first, last, count = int(index[0]), int(index[-1]), len(index)
    if abs(last - first) == count - 1 and (np.abs(np.diff(index)) == 1).all():
        taken = grid.narrow(dim, min(first, last), count)
        return taken if last >= first else taken.flip(dim)
    return grid.index_select(dim, torch.from_numpy(index))


def _demand(fits: bool, rule: str, tensor: Tensor) -> None:
    if not fits:
        raise ArtifactError(f"{rule}; got {tuple(tensor.shape)} {tensor.dtype}")
