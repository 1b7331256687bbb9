"""Vectors brought to length 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def unit_vectors(vectors: Tensor, dim: int) -> Tensor:
    """Divide by the Euclidean length along `dim`; a vector of zeros stays one, without a gradient.

    A ReLU leaves such vectors behind. Divided by a small constant in place of their length they
    would get a gradient larger than all others by its inverse.

    vectors: any shape, floating
    """
    squares = vectors.square().sum(dim=dim, keepdim=True)
    nothing = squares < torch.finfo(vectors.dtype).tiny
    inverse = squares.masked_fill(nothing, 1).rsqrt()
    return vectors.masked_fill(nothing, 0) * inverse
