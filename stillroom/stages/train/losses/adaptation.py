"""Knowledge adaptation: distance between normalised feature vectors, position by position."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from stillroom.stages.train.loss_parts.masks import masked_mean, matched
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.stages.train.terms.code_term import CodeTerm
from stillroom.stages.train.terms.term import Positive
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def adaptation(
    student: Tensor,
    teacher: Tensor,
    *,
    p: float = 1.0,
    q: float = 2.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Compare the normalised vectors of student and teacher at each position.

    loss = mean_i | s_i / |s_i|_q - t_i / |t_i|_q |_p

    He et al., "Knowledge Adaptation for Efficient Semantic Segmentation", CVPR 2019, eq. 2, there
    with weight 50; arXiv:1903.04688. What differs: docs/losses/adaptation.md.

    Args:
        student, teacher: (B, C, H, W): the adapter's output, and the code of the teacher's features
        p, q: norms along the channels, at least 1
        mask: (B, 1, H, W) bool, True where a position counts

    Returns:
        () mean over the counted positions of the batch; with p = 1 and q = 2 between 0 and 2
        sqrt(C), and at most sqrt(2 C) where both are at least 0. A vector of zeros, as a ReLU
        leaves them behind, stays 0 and gets no gradient
    """
    for name, norm in (("p", p), ("q", q)):
        if not 1 <= norm < math.inf:
            raise ConfigError(f"{name} must be a norm's exponent of at least 1, got {norm}")
    student, teacher = matched(student, teacher, mask)
    difference = unit_vectors(student, norm=q) - unit_vectors(teacher, norm=q)
    return masked_mean(torch.linalg.vector_norm(difference, p, dim=1), mask)


class AdaptationTerm(CodeTerm):
    """`adaptation`; weight 50 is the authors' beta."""

    name: Literal["adaptation"]
    weight: Positive = 50.0
    p: float = Field(default=1.0, ge=1, allow_inf_nan=False)
    q: float = Field(default=2.0, ge=1, allow_inf_nan=False)

    def value(self, given: TermInput) -> Tensor:
        student = self.adapted(given)
        return adaptation(student, self.target(given), p=self.p, q=self.q, mask=given.mask)
