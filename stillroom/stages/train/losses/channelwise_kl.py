"""Channel-wise distillation: where in the frame each channel is active."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator

from stillroom.stages.train.loss_parts.masks import masked_mean, matched
from stillroom.stages.train.losses.fitnet import fitnet
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.stages.train.terms.feature_term import ProjectedTerm
from stillroom.stages.train.terms.term import Positive
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput

Variant = Literal["kl", "bhattacharyya", "l2", "l2_unnormalised", "pixel_kl"]


def channelwise_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 4.0,
    variant: Variant = "kl",
    mask: Tensor | None = None,
) -> Tensor:
    """Compare the distributions of each channel over the frame.

    kl:              loss = T^2 * mean_bc sum_i p_i * log(p_i / q_i)
    bhattacharyya:   loss = T^2 * mean_bc -log sum_i sqrt(p_i * q_i)
    l2:              loss = T^2 * mean_bc sum_i (p_i - q_i)^2
    l2_unnormalised: loss = mean_bci (s_i - t_i)^2, which is `fitnet`; no T
    pixel_kl:        `pixelwise_kl` at T: distributions over channels, not over the frame
    p, q = softmax over the counted pixels i of t/T, s/T;  t, s: channel c of frame b

    Memory: O(B C H W): two or three maps are kept for the way back, and nothing larger is made

    Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, eq. 4;
    arXiv:2011.13256; there T = 4 with weight 3 on logits, 50 on features. The variants: Y. Liu,
    "Efficient Fully Convolutional Networks for Dense Prediction Tasks", thesis, Adelaide 2021,
    table 4.4. What differs: docs/losses/channelwise.md.

    Args:
        student, teacher: (B, C, H, W) logits or features, and no log-probabilities: a constant
            added to a pixel changes the first three
        temperature: T above 0; a larger one spreads each channel over more of the frame
        mask: (B, 1, H, W) bool, True where a pixel counts; others are in no distribution

    Returns:
        () mean over the channels of all frames that have a counted pixel, in nats for `kl`
    """
    if temperature <= 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}")
    if variant == "l2_unnormalised":
        return fitnet(student, teacher, mask=mask)
    if variant == "pixel_kl":
        return pixelwise_kl(student, teacher, temperature=temperature, mask=mask)
    if variant not in _DISTANCES:
        known = ", ".join([*_DISTANCES, "l2_unnormalised", "pixel_kl"])
        raise ConfigError(f"variant must be one of {known}, got {variant!r}")
    student, teacher = matched(student, teacher, mask)
    log_q = _log_distribution(student / temperature, mask)  # (B, C, HW)
    log_p = _log_distribution(teacher / temperature, mask)
    distance = _DISTANCES[variant](log_p, log_q).mean(dim=1)  # (B,)
    counted = None if mask is None else mask.flatten(1).any(dim=1)
    return temperature**2 * masked_mean(distance, counted)


def _log_distribution(maps: Tensor, mask: Tensor | None) -> Tensor:
    """Log-softmax over the counted pixels, far below any other where a pixel does not count.

    The floor is finite, since -inf - -inf is no number; a quarter, since two of them are summed.
    """
    maps = maps.flatten(2)  # (B, C, HW)
    if mask is not None:
        maps = maps.masked_fill(~mask.flatten(2), torch.finfo(maps.dtype).min / 4)
    return F.log_softmax(maps, dim=2)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(dim=2)  # (B, C)


def _bhattacharyya(log_p: Tensor, log_q: Tensor) -> Tensor:
    return -torch.logsumexp((log_p + log_q) / 2, dim=2)  # (B, C)


def _l2(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() - log_q.exp()).square().sum(dim=2)  # (B, C)


_DISTANCES = {"kl": _kl, "bhattacharyya": _bhattacharyya, "l2": _l2}


class ChannelwiseKLTerm(ProjectedTerm):
    """`channelwise_kl`; its temperature is 4 unless given, and `l2_unnormalised` has none."""

    name: Literal["channelwise_kl"]
    on: Literal["features", "logits"] = "logits"
    temperature: Positive = 4.0
    variant: Variant = "kl"

    @model_validator(mode="after")
    def _temperature_has_a_use(self) -> ChannelwiseKLTerm:
        if self.variant == "l2_unnormalised" and "temperature" in self.model_fields_set:
            raise ValueError("variant l2_unnormalised has no temperature: leave it out")
        return self

    def bias(self) -> bool:
        """Tell whether a constant added to a channel changes anything: not if it is normalised."""
        return self.variant in ("l2_unnormalised", "pixel_kl")

    def value(self, given: TermInput) -> Tensor:
        return channelwise_kl(
            self.projected(given),
            self.target(given),
            temperature=self.temperature,
            variant=self.variant,
            mask=given.mask,
        )
