"""FAKD, channel-wise: distillation of a student whose features are augmented without end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from stillroom.stages.train.loss_parts.augmentation import matched_with_labels
from stillroom.stages.train.loss_parts.masks import masked_mean
from stillroom.stages.train.terms.augmented_term import AugmentedTerm
from stillroom.stages.train.terms.term import Positive
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.loss_parts.augmentation import Augmentation
    from stillroom.stages.train.terms.term import TermInput

VarianceOver = Literal["temperature", "temperature_squared"]


def augmented_channelwise(
    student: Tensor,
    teacher: Tensor,
    *,
    augmentation: Augmentation,
    temperature: float = 4.0,
    variance_over: VarianceOver = "temperature",
    mask: Tensor | None = None,
) -> Tensor:
    """Bound the channel-wise KL, averaged over all augmentations of the student's features.

    loss = T^2 / C * sum_c sum_i p_ci * (log p_ci + log sum_k exp((z_ck - z_ci) / T + v_ci + v_ck))
    v_ci = strength / (2 T) * sum_a w_ca^2 * variance_ya
    p = softmax over positions of teacher/T,  z = student,  y = label of position i

    Memory: a few times B C H W; v depends on the position's class alone: a table of C x C looked up

    Yuan et al., "FAKD: Feature Augmented Knowledge Distillation for Semantic Segmentation", 2022,
    eq. 7; arXiv:2208.14143. What differs: docs/losses/augmented.md.

    Args:
        student, teacher: (B, C, H, W) logits; the student's are its classifier's, at plain features
        augmentation: the classifier w, the variances, the labels and the strength lambda
        temperature: T above 0
        variance_over: "temperature": v over 2 T, as printed. "temperature_squared": over 2 T^2,
            which is what follows for a Gaussian
        mask: (B, 1, H, W) bool, True where a position counts

    Returns:
        () mean over the frames of which something counts, in nats; `channelwise_kl` at
        strength 0
    """
    student, teacher, labels = matched_with_labels(
        student, teacher, augmentation, temperature, mask
    )
    if variance_over not in ("temperature", "temperature_squared"):
        raise ConfigError(
            f"variance_over must be 'temperature' or 'temperature_squared', got {variance_over!r}"
        )
    power = 2 if variance_over == "temperature_squared" else 1
    weight, variance = augmentation.parameters(student.dtype)
    with torch.autocast(student.device.type, enabled=False):
        table = augmentation.strength / (2 * temperature**power) * weight.square() @ variance.T
        v = F.pad(table, (0, 1))[:, labels].transpose(0, 1)  # (B, C, H, W)
        left_out = torch.zeros_like(labels, dtype=torch.bool) if mask is None else ~mask.squeeze(1)
        left_out = left_out[:, None]  # (B, 1, H, W)
        lowest = torch.finfo(student.dtype).min  # not -inf: nothing may count in a whole frame
        log_p, log_q = (
            (logits / temperature).masked_fill(left_out, lowest).flatten(2).log_softmax(dim=2)
            for logits in (teacher, student)
        )  # (B, C, HW)
        v = v.flatten(2)
        excess = (log_q + v).logsumexp(dim=2, keepdim=True) + v
        surprise = log_p.exp() * (log_p - log_q + excess)
        frames = surprise.masked_fill(left_out.flatten(2), 0).sum(dim=2).mean(dim=1)  # (B,)
    return temperature**2 * masked_mean(frames, ~left_out.flatten(1).all(dim=1))


class AugmentedChannelwiseTerm(AugmentedTerm):
    """`augmented_channelwise`; weight and temperature are those of channel-wise KL."""

    name: Literal["augmented_channelwise"]
    weight: Positive = 3.0
    temperature: Positive = 4.0
    variance_over: VarianceOver = "temperature"

    def value(self, given: TermInput) -> Tensor:
        return augmented_channelwise(
            given.features,
            self.target(given),
            augmentation=self.augmentation(given),
            temperature=self.temperature,
            variance_over=self.variance_over,
            mask=given.mask,
        )
