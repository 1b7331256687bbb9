"""Dense features of foundation models: their direction, and their values but for outliers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from pydantic import model_validator

from stillroom.stages.train.loss_parts.masks import masked_mean, matched
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.stages.train.terms.feature_term import ProjectedTerm
from stillroom.stages.train.terms.term import NotNegative

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def feature_match(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    cosine: float = 0.9,
    smooth_l1: float = 0.1,
) -> Tensor:
    """Take the angle and the smooth absolute difference of two feature maps.

    loss = mean_i a (1 - cos(s_i, t_i)) + b / C * sum_c h(s_ic - t_ic)
    h(d) = d^2 / 2 where |d| < 1, |d| - 1/2 elsewhere

    Memory: O(B C H W)

    Ranzinger et al., "AM-RADIO: Agglomerative Vision Foundation Model - Reduce All Domains Into
    One", CVPR 2024, the loss of spatial features; arXiv:2312.06709. Shang et al., "Theia:
    Distilling Diverse Vision Foundation Models for Robot Learning", CoRL 2024; arXiv:2407.20179.
    What differs: docs/losses/features.md.

    Args:
        student: (B, C, H, W) features, through a `Projector` where it has other channels than C
        teacher: (B, C, H, W) features
        mask: (B, 1, H, W) bool, True where a position counts
        cosine, smooth_l1: a and b

    Returns:
        () mean over the batch's counted positions
    """
    student, teacher = matched(student, teacher, mask)
    angle = 1 - (unit_vectors(student) * unit_vectors(teacher)).sum(1)
    distance = F.smooth_l1_loss(student, teacher, reduction="none").mean(1)
    return masked_mean(cosine * angle + smooth_l1 * distance, mask)


class FeatureMatchTerm(ProjectedTerm):
    """`feature_match`.

    Attributes:
        cosine, smooth_l1: weights of its two parts, one of them above 0
    """

    name: Literal["feature_match"]
    cosine: NotNegative = 0.9
    smooth_l1: NotNegative = 0.1

    @model_validator(mode="after")
    def _something_counts(self) -> FeatureMatchTerm:
        if self.cosine == self.smooth_l1 == 0:
            raise ValueError("cosine and smooth_l1 are both 0, and nothing is compared")
        return self

    def value(self, given: TermInput) -> Tensor:
        return feature_match(
            self.projected(given),
            self.target(given),
            mask=given.mask,
            cosine=self.cosine,
            smooth_l1=self.smooth_l1,
        )
