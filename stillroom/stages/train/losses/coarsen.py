"""A map on a grid of larger stride: means over cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


def coarsen(features: Tensor, factor: int) -> Tensor:
    """Bring a map to a grid of `factor` times the stride: the mean over the cells below each cell.

    Cell (i, j) of the result covers `factor` x `factor` cells from (i factor, j factor), as the
    grids of two strides lie over one frame; at the lower and right edge there may be fewer.

    features: (B, C, H, W) floating
    returns: (B, C, ceil(H / factor), ceil(W / factor)), float32 (float64 stays)
    """
    if factor < 1:
        raise ArtifactError(f"a grid is made coarser by a whole factor of at least 1, got {factor}")
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    if factor == 1:
        return features
    return F.avg_pool2d(features, factor, ceil_mode=True, count_include_pad=False)
