"""Vectors of length 1, of which the dot products are cosines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_SHORTEST = 1e-8  # below it a vector has no direction worth the name


def unit_vectors(vectors: Tensor, dim: int) -> Tensor:
    """Divide each vector by its length; one that is shorter than 1e-8 stays as it is.

    So the cosine of a zero vector with any other is 0, and the gradient there is that of the dot
    product: finite, where a division by a floor of 1e-8 would multiply it by 1e8.

    vectors: floating, of any shape
    dim: along which a vector lies
    returns: as vectors
    """
    squares = vectors.square().sum(dim, keepdim=True)
    return vectors * torch.where(squares > _SHORTEST**2, squares, 1).rsqrt()
