"""L_p of Xie et al.: squared distance between the class probabilities of each pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F

from stillroom.stages.train.loss_parts.masks import masked_mean, matched
from stillroom.stages.train.terms.logits_term import EnsembleTerm

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def probability_l2(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Take the squared distance between the class probabilities of each pixel.

    loss = mean_i sum_c (q_ic - p_ic)^2,  p, q = softmax over classes of teacher, student

    Xie et al., "Improving Fast Segmentation With Teacher-student Learning", BMVC 2018, L_p of
    eq. 2, there with weight alpha = 4 and summed over pixels; arXiv:1810.08476.

    Args:
        student, teacher: (B, C, H, W) logits
        mask: (B, 1, H, W) bool, True where a pixel counts

    Returns:
        () mean over the counted pixels of the batch, between 0 and 2
    """
    student, teacher = matched(student, teacher, mask)
    distance = (F.softmax(student, dim=1) - F.softmax(teacher, dim=1)).square().sum(dim=1)
    return masked_mean(distance, mask)


class ProbabilityL2Term(EnsembleTerm):
    """`probability_l2`."""

    name: Literal["probability_l2"]

    def whole_logits(self) -> bool:
        return False

    def value(self, given: TermInput) -> Tensor:
        return probability_l2(given.features, self.target(given), mask=given.mask)
