"""Attention transfer: where in the frame a network's features are large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stillroom.stages.train.loss_parts.masks import masked_mean, matched_grids
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.stages.train.terms.feature_term import MapTerm
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def attention_transfer(
    student: Tensor, teacher: Tensor, *, power: float = 2.0, mask: Tensor | None = None
) -> Tensor:
    """Compare the normalised attention maps of two networks.

    loss = mean_b sum_i (Q_s,i / |Q_s| - Q_t,i / |Q_t|)^2
    Q_i = sum_c |z_ic|^power;  |Q|: the root of the sum of Q_i^2 over the counted positions i of b

    Memory: O(B (C + C') H W), the features themselves

    Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017, eq. 2; arXiv:1612.03928.
    The square is the released code's, whose weight 1000 is 1000 / (H W) here; what else differs:
    docs/losses/features.md.

    Args:
        student: (B, C, H, W) features
        teacher: (B, C', H, W) features; C' may be another number: channels are summed away
        power: 1 or more; a larger one weighs the largest activations more
        mask: (B, 1, H, W) bool, True where a position counts; others are in no sum

    Returns:
        () mean over the frames that have a counted position, between 0 and 2
    """
    if not 1 <= power < float("inf"):
        raise ConfigError(f"power must be a number of 1 or more, got {power}")
    student, teacher = matched_grids(student, teacher, mask)
    difference = _attention(student, power) - _attention(teacher, power)
    counted = None if mask is None else mask.flatten(1).any(dim=1)
    return masked_mean(difference.square().sum(dim=1), counted)


def _attention(features: Tensor, power: float) -> Tensor:
    """(B, C, H, W) -> (B, HW) of length 1; what is masked is 0 already and adds nothing."""
    energy = features.square() if power == 2 else features.abs().pow(power)
    return unit_vectors(energy.sum(dim=1).flatten(1), dim=1)


class AttentionTransferTerm(MapTerm):
    """`attention_transfer`."""

    name: Literal["attention_transfer"]
    power: float = Field(default=2.0, ge=1, allow_inf_nan=False)

    def value(self, given: TermInput) -> Tensor:
        teacher = self.target(given)
        return attention_transfer(given.features, teacher, power=self.power, mask=given.mask)
