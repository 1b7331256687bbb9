"""Student features on a grid of larger stride: the mean over the cells that count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


def coarsen(features: Tensor, factor: int, mask: Tensor | None = None) -> Tensor:
    """Bring features to a grid of `factor` times the stride: the mean over the cells that count.

    Cell (i, j) of the result covers `factor` x `factor` cells from (i factor, j factor), as the
    grids of two strides lie over one frame; at the lower and right edge there may be fewer. A cell
    of which none counts is 0.

    features: (B, C, H, W) floating
    mask: (B, 1, H, W) bool, True where a cell counts; the others reach neither value nor gradient
    returns: (B, C, ceil(H / factor), ceil(W / factor)), float32 (float64 stays)
    """
    if factor < 1:
        raise ArtifactError(f"a grid is made coarser by a whole factor of at least 1, got {factor}")
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    if mask is not None:
        features = features.masked_fill(~mask, 0)
    if factor == 1:
        return features
    some = features.new_ones(features[:1, :1].shape) if mask is None else mask.to(features.dtype)
    pad = (0, -features.shape[3] % factor, 0, -features.shape[2] % factor)
    total = F.avg_pool2d(F.pad(features, pad), factor)
    share = F.avg_pool2d(F.pad(some, pad), factor)
    return total / share.masked_fill(share == 0, 1)
