"""Local affinity: how alike each position is to the eight around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stillroom.stages.across_ranks import mean_of_all
from stillroom.stages.train.loss_parts.masks import matched_grids
from stillroom.stages.train.loss_parts.near_pairs import near_pairs
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.stages.train.terms.feature_term import MapTerm

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def local_affinity(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Compare the cosines between each position and the eight around it.

    loss = mean_ij (a_s,ij - a_t,ij)^2,  a_ij = z_i . z_j / (|z_i| |z_j|),  j: neighbours of i

    Memory: O(B (C + C' + 8) H W)

    The LOCAL of Y. Liu, "Efficient Fully Convolutional Networks for Dense Prediction Tasks",
    thesis, Adelaide 2021, tables 3.7 and 4.2, after Xie et al., BMVC 2018, whose own form is
    `consistency_l2`. What differs: docs/losses/features.md.

    Args:
        student: (B, C, H, W) features or logits
        teacher: (B, C', H, W), likewise; C' may be another number
        mask: (B, 1, H, W) bool, True where a position counts; a pair counts where both do

    Returns:
        () mean over the counted pairs of neighbours of the batch, between 0 and 4
    """
    student, teacher = matched_grids(student, teacher, mask)
    total, count = near_pairs(unit_vectors(student, 1), unit_vectors(teacher, 1), mask, reach=1)
    return mean_of_all(total, count)


class LocalAffinityTerm(MapTerm):
    """`local_affinity`."""

    name: Literal["local_affinity"]

    def value(self, given: TermInput) -> Tensor:
        return local_affinity(given.features, self.target(given), mask=given.mask)
