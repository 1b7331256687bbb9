"""Vectors of length 1, of which the dot products are cosines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_SHORTEST = 1e-8  # at or below it a vector has no direction worth the name


def unit_vectors(vectors: Tensor, dim: int = 1, *, norm: float = 2.0) -> Tensor:
    """Divide each vector by its length; one that is no longer than 1e-8 becomes 0.

    A vector of zeros, as a ReLU leaves them behind, has no direction: it stays 0 and gets no
    gradient, where dividing by a small number instead would give it a huge one.

    Args:
        vectors: floating, of any shape
        dim: along which a vector lies
        norm: q of the q-norm that is its length, at least 1

    Returns:
        as vectors
    """
    length: Tensor = torch.linalg.vector_norm(vectors, norm, dim=dim, keepdim=True)
    directed = length > _SHORTEST
    return vectors.masked_fill(~directed, 0) / length.masked_fill(~directed, 1)
