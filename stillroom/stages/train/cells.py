"""What lies on an image's pixels, brought to the cells of a coarser grid.

Cell i of stride s covers the pixels i s to (i + 1) s - 1, and its centre is at (i + 0.5) s with
pixel edges at the integers, as in `stages.geometry`. The last cells of a row or column may reach
beyond the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def at_centres(field: Tensor, stride: int) -> Tensor:
    """Sample a field at the centres of the cells: bilinear, the image's edge repeated.

    The mean over a cell would be the same wherever the field is linear. Where it jumps, as flow
    does at the edge of what moves, the mean is a value that none of the cell's pixels has.

    field: (B, C, H, W) floating, on pixels
    returns: (B, C, ceil(H / stride), ceil(W / stride)), in the field's own unit
    """
    height, width = field.shape[2:]
    field = F.pad(field, (0, -width % stride, 0, -height % stride), mode="replicate")
    low, high = (stride - 1) // 2, stride // 2  # the two pixels around the centre, or one twice
    rows = (field[:, :, low::stride] + field[:, :, high::stride]) / 2  # (B, C, h, W')
    return (rows[..., low::stride] + rows[..., high::stride]) / 2  # (B, C, h, w)


def cell_means(values: Tensor, stride: int) -> Tensor:
    """Average over the pixels that each cell has in the image.

    values: (B, C, H, W) floating, on pixels
    returns: (B, C, ceil(H / stride), ceil(W / stride))
    """
    return F.avg_pool2d(values, stride, ceil_mode=True)
