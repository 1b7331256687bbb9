"""Bring values to a grid of larger stride.

Position i of a grid of stride s stands for the pixels i s to (i + 1) s - 1, and its centre is at
(i + 0.5) s with pixel edges at the integers, as in `stages.geometry`. The last positions of a
row or column may reach beyond the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


def downsample_at_centres(field: Tensor, stride: int) -> Tensor:
    """Sample a field at the centres of the positions: bilinear, the image's edge repeated.

    The mean over the pixels would be the same wherever the field is linear. Where it jumps, as flow
    does at the edge of what moves, the mean is a value that none of the pixels has.

    Args:
        field: (B, C, H, W) floating, on pixels

    Returns:
        (B, C, ceil(H / stride), ceil(W / stride)), in the field's own unit
    """
    height, width = field.shape[2:]
    field = F.pad(field, (0, -width % stride, 0, -height % stride), mode="replicate")
    low, high = (stride - 1) // 2, stride // 2  # the two pixels around the centre, or one twice
    rows = (field[:, :, low::stride] + field[:, :, high::stride]) / 2  # (B, C, h, W')
    return (rows[..., low::stride] + rows[..., high::stride]) / 2  # (B, C, h, w)


def downsample_by_means(values: Tensor, factor: int) -> Tensor:
    """Average over `factor` x `factor` values, fewer of them at the right and the bottom.

    Args:
        values: (B, C, H, W) floating

    Returns:
        (B, C, ceil(H / factor), ceil(W / factor)), float32 (float64 stays)
    """
    if factor < 1:
        raise ArtifactError(f"a grid is made coarser by a whole factor of at least 1, got {factor}")
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return F.avg_pool2d(values, factor, ceil_mode=True)
