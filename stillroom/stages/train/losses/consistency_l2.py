"""L_c of Xie et al.: squared distance between the consistency maps of two logit maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F

from stillroom.stages.train.loss_parts.masks import masked_mean, matched
from stillroom.stages.train.loss_parts.near_pairs import pairs, shifts
from stillroom.stages.train.terms.logits_term import LogitsTerm
from stillroom.stages.train.terms.term import Positive

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def consistency_l2(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Compare how much the logits of student and teacher change around each pixel.

    loss = mean_i (c_s(i) - c_t(i))^2,  c(i) = sum over the neighbours j of i of |z_j - z_i|^2

    The neighbours are the up to 8 pixels around i that lie in the map and count in the mask: a
    neighbour outside adds nothing, so c is smaller along borders, equally for both.

    Xie et al., "Improving Fast Segmentation With Teacher-student Learning", BMVC 2018, L_c of
    eq. 2, there with weight beta = 0.4; arXiv:1810.08476. That weight does not carry over, and what
    else differs: docs/losses/pixels.md.

    Args:
        student, teacher: (B, C, H, W) logits z
        mask: (B, 1, H, W) bool, True where a pixel counts

    Returns:
        () mean over the counted pixels of the batch, in the fourth power of a logit
    """
    student, teacher = matched(student, teacher, mask)
    difference = consistency_map(student, mask) - consistency_map(teacher, mask)
    return masked_mean(difference.square(), mask)


def consistency_map(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum the squared distances from each pixel's logits to those of its neighbours.

    Args:
        logits: (B, C, H, W)
        mask: (B, 1, H, W) bool; pairs of which one is masked out add nothing

    Returns:
        (B, H, W)
    """
    height, width = logits.shape[2:]
    total = logits.new_zeros(logits.shape[0], height, width)
    for down, right in shifts(reach=1):
        if height <= down or width <= abs(right):
            continue
        here, there = pairs(logits, down, right)
        distance = (there - here).square().sum(dim=1)  # (B, H - down, W - |right|)
        if mask is not None:
            here, there = pairs(mask, down, right)
            distance = distance.masked_fill(~(there & here).squeeze(1), 0)
        left_pad, right_pad = max(0, -right), max(0, right)
        total = total + F.pad(distance, (left_pad, right_pad, 0, down))
        total = total + F.pad(distance, (right_pad, left_pad, down, 0))
    return total


class ConsistencyL2Term(LogitsTerm):
    """`consistency_l2`.

    Attributes:
        weight: to be given, since no default fits: the loss is in the fourth power of a logit.
            About 0.4 / (8 C)^2 for C classes puts it beside the other terms; see docs/losses.md
    """

    name: Literal["consistency_l2"]
    weight: Positive

    def value(self, given: TermInput) -> Tensor:
        return consistency_l2(given.features, self.target(given), mask=given.mask)
