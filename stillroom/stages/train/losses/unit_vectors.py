"""Feature vectors brought to length 1, with no gradient where there is no direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

SHORTEST = 1e-6


def unit_vectors(features: Tensor, norm: float = 2.0) -> Tensor:
    """Divide each position's vector by its norm along the channels.

    unit_i = x_i / |x_i|_q,  and 0 where |x_i|_q is at most 1e-6

    A vector of zeros has no direction. It stays 0 and gets no gradient: dividing by a small number
    instead would give it one of a million.

    features: (B, C, ...) floating
    norm: q, at least 1
    returns: like features; each vector's q-norm is 1 or 0
    """
    length = torch.linalg.vector_norm(features, norm, dim=1, keepdim=True)  # (B, 1, ...)
    directed = length > SHORTEST
    return features.masked_fill(~directed, 0) / length.masked_fill(~directed, 1)
