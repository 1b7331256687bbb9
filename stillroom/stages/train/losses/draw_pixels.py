"""A random choice of pixels that count, so many a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def draw_pixels(mask: Tensor, number: int) -> Tensor:
    """Draw pixels without replacement, from torch's global generator.

    mask: (B, 1, H, W) bool, True where a pixel may be drawn
    number: of pixels a frame, above 0
    returns: (B, n) int64 positions in H W, n = min(number, H W); -1 where a frame has no more
    """
    flat = mask.flatten(1)  # (B, HW)
    draws = torch.rand(flat.shape, device=flat.device).masked_fill(~flat, -1)
    found = draws.topk(min(number, flat.shape[1]), dim=1)
    return found.indices.masked_fill(found.values < 0, -1)
