"""Hints: the student's features are the teacher's, value by value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stillroom.stages.train.loss_parts.masks import masked_mean, matched
from stillroom.stages.train.terms.feature_term import ProjectedTerm

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def fitnet(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Take the squared difference of two feature maps.

    loss = mean_i 1/C * sum_c (s_ic - t_ic)^2

    Memory: O(B C H W)

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, eq. 3; arXiv:1412.6550. What
    differs: docs/losses/features.md.

    Args:
        student: (B, C, H, W) features, through a `Projector` where it has other channels than C
        teacher: (B, C, H, W) features
        mask: (B, 1, H, W) bool, True where a position counts

    Returns:
        () mean over the channels of the batch's counted positions, in squared feature units
    """
    student, teacher = matched(student, teacher, mask)
    return masked_mean((student - teacher).square().mean(dim=1), mask)


class FitnetTerm(ProjectedTerm):
    """`fitnet`."""

    name: Literal["fitnet"]

    def value(self, given: TermInput) -> Tensor:
        return fitnet(self.projected(given), self.target(given), mask=given.mask)
