"""The length of the vector at each pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def channel_norm(x: Tensor) -> Tensor:
    """Euclidean norm over channels, with the gradient 0 where all of them are 0.

    x: (B, C, H, W)
    returns: (B, 1, H, W)
    """
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return norm
