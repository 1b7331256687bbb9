"""Weighted cross entropy of depth in bins: the right bin counts, and so do those around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from stillroom.stages.models.task_heads import DEPTH_LOGITS, DepthHead
from stillroom.stages.train.loss_parts.known_depth import demand_depth, is_known
from stillroom.stages.train.loss_parts.masks import masked_mean
from stillroom.stages.train.terms.target_term import DepthTerm
from stillroom.stages.train.terms.term import Positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput

ALPHA = 0.2


def depth_bins(
    student: Tensor,
    depth: Tensor,
    *,
    log_centres: Sequence[float],
    alpha: float = ALPHA,
    mask: Tensor | None = None,
) -> Tensor:
    """Take the cross entropy of bins of depth, weighted by how near a bin is to the right one.

    loss = mean_i - sum_k w_ik log q_ik,  w_ik = exp(-alpha (y_i - k)^2),  q = softmax of student
    y_i: the bin whose centre is nearest to log depth_i;  i: pixels with a depth

    Yin et al., "Enforcing Geometric Constraints of Virtual Normal for Depth Prediction", ICCV 2019,
    arXiv:1907.12209, the weighted cross-entropy loss, alpha 0.2; after Cao et al., "Estimating
    Depth from Monocular Images as Classification Using Deep Fully Convolutional Residual Networks",
    TCSVT 2018. arXiv:1605.02305. The weights of a pixel do not sum to 1, as there.

    Args:
        student: (B, K, H, W) logits of the bins
        depth: (B, 1, H, W) metres; 0, or what is not finite: none
        log_centres: K logarithms of depth, evenly spaced and rising
        alpha: above 0; the larger, the less a near bin counts
        mask: (B, 1, H, W) bool, True where a pixel counts

    Returns:
        () mean over the counted pixels that have a depth, in nats; what lies beyond the bins counts
        as the first or the last of them. Not 0 at its least, since near bins count too
    """
    demand_depth(student, depth, mask, channels=len(log_centres))
    known = is_known(depth, mask)
    student = student.to(torch.promote_types(student.dtype, torch.float32)).masked_fill(~known, 0)
    first, width = log_centres[0], log_centres[1] - log_centres[0]
    logs = depth.detach().to(student.dtype).masked_fill(~known, 1).log()
    bins = ((logs - first) / width).round().clamp(0, len(log_centres) - 1)  # (B, 1, H, W)
    each = torch.arange(len(log_centres), device=student.device)[:, None, None]
    weights = (-alpha * (bins - each).square()).exp()  # (B, K, H, W)
    return masked_mean(-(weights * student.log_softmax(1)).sum(1), known)


class DepthBinsTerm(DepthTerm):
    """`depth_bins`.

    Attributes:
        alpha: how soon the bins around the right one stop to count
    """

    name: Literal["depth_bins"]
    alpha: Positive = ALPHA

    @property
    def grid(self) -> str:
        return DEPTH_LOGITS

    def value(self, given: TermInput) -> Tensor:
        head = given.student.heads[DepthHead.task]
        depth, mask = self.known(given), self.counted(given)
        student = self.brought(given, depth)
        if not isinstance(head, DepthHead):
            raise TypeError(f"the head of {DepthHead.task} is {head!r}")
        centres = head.log_centres()
        return depth_bins(student, depth, log_centres=centres, alpha=self.alpha, mask=mask)
