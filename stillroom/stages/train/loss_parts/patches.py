"""Patches of cells as nodes: sums of maps over them, and which of them count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def patch_sums(maps: Tensor, patch: int) -> Tensor:
    """Add up the cells of each patch; those at the right and the bottom are cut off with the map.

    maps: (B, C, H, W) floating, 0 where a cell does not count
    patch: cells a side, 1 or more
    returns: (B, C, ceil(H / patch), ceil(W / patch)). The sum stands for the mean of the counted
        cells wherever directions alone matter: a cosine does not see the length
    """
    if patch == 1:
        return maps
    return F.avg_pool2d(whole_patches(maps, patch, 0), patch, divisor_override=1)


def whole_patches(maps: Tensor, patch: int, fill: float) -> Tensor:
    """Extend a map to the right and to the bottom until patches tile it."""
    height, width = maps.shape[2:]
    return F.pad(maps, (0, -width % patch, 0, -height % patch), value=fill)


def counted_patches(mask: Tensor, patch: int) -> Tensor:
    """(B, 1, H, W) -> (B, 1, h, w) bool: in which patches a cell counts."""
    return mask if patch == 1 else patch_sums(mask.float(), patch) > 0
