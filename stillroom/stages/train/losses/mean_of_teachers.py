"""Several teachers as one: the mean of what they hold for likely."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def mean_of_teachers(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Logits whose softmax is the weighted mean of the teachers' probabilities.

    z_c = log sum_k w_k softmax(z_k)_c,  weights w scaled to sum to 1

    logits: one (B, C, h, w) a teacher, all of one shape
    weights: one a teacher, above 0
    returns: (B, C, h, w) log-probabilities, float32 (float64 stays). Their softmax is the mean at
        temperature 1; a loss with temperature T softens the mean, and does not average what is
        softened

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2: the arithmetic
    mean of an ensemble's distributions. arXiv:1503.02531
    """
    if len({tuple(one.shape) for one in logits}) != 1 or len(logits) != len(weights):
        shapes = ", ".join(str(tuple(one.shape)) for one in logits)
        raise ArtifactError(
            f"teachers to average must have logits of one shape and a weight each, got {shapes} "
            f"with {len(weights)} weights"
        )
    dtype = torch.promote_types(logits[0].dtype, torch.float32)
    total = sum(weights)
    shares = [
        F.log_softmax(one.detach().to(dtype), dim=1) + math.log(weight / total)
        for one, weight in zip(logits, weights, strict=True)
    ]
    return torch.stack(shares).logsumexp(dim=0)
