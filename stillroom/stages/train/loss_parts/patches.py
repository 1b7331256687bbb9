"""Patches of a map as nodes: sums over them, and which of them count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def patch_sums(maps: Tensor, patch: int) -> Tensor:
    """Add up each patch; those at the right and the bottom are cut off with the map.

    Args:
        maps: (B, C, H, W) floating, 0 where a position does not count
        patch: positions a side, 1 or more

    Returns:
        (B, C, ceil(H / patch), ceil(W / patch)). The sum stands for the mean of the counted
        positions wherever directions alone matter, as for cosines
    """
    if patch == 1:
        return maps
    return F.avg_pool2d(whole_patches(maps, patch, 0), patch, divisor_override=1)


def whole_patches(maps: Tensor, patch: int, fill: float) -> Tensor:
    """Extend a map to the right and to the bottom until patches tile it."""
    height, width = maps.shape[2:]
    return F.pad(maps, (0, -width % patch, 0, -height % patch), value=fill)


def counted_patches(mask: Tensor, patch: int) -> Tensor:
    """Tell in which patches a position counts, (B, 1, h, w) bool."""
    return mask if patch == 1 else patch_sums(mask.float(), patch) > 0
