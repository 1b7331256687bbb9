"""Pixel-wise distillation: KL between the class distributions of each pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from stillroom.stages.train.loss_parts.masks import masked_mean, matched
from stillroom.stages.train.terms.logits_term import EnsembleTerm
from stillroom.stages.train.terms.term import Positive
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput

Direction = Literal["teacher_student", "student_teacher"]


def pixelwise_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    direction: Direction = "teacher_student",
    standardise: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Take the KL between the class distributions of each pixel.

    teacher_student: loss = T^2 * mean_i sum_c p_ic * log(p_ic / q_ic)
    student_teacher: loss = T^2 * mean_i sum_c q_ic * log(q_ic / p_ic)
    p, q = softmax over classes of teacher/T, student/T

    Liu et al., "Structured Knowledge Distillation for Dense Prediction", TPAMI 2020, the
    pixel-wise term; arXiv:1903.04197. T^2: Hinton et al., 2015, section 2; arXiv:1503.02531.
    `standardise`: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024,
    algorithm 1; arXiv:2403.01427. What differs: docs/losses/pixels.md.

    Args:
        student, teacher: (B, C, H, W) logits
        temperature: T above 0; T^2 keeps the size of the gradient as T grows
        standardise: both logits of each pixel first become (z - mean) / deviation over its classes:
            the loss is then 0 for all a z + b with a > 0 at each pixel
        mask: (B, 1, H, W) bool, True where a pixel counts

    Returns:
        () mean over the counted pixels of the batch, in nats
    """
    if temperature <= 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}")
    student, teacher = matched(student, teacher, mask)
    if standardise:
        student, teacher = _standardised(student), _standardised(teacher)
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    if direction == "student_teacher":
        log_p, log_q = log_q, log_p
    elif direction != "teacher_student":
        raise ConfigError(
            f"direction must be 'teacher_student' or 'student_teacher', got {direction!r}"
        )
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1)  # (B, H, W)
    return temperature**2 * masked_mean(divergence, mask)


def _standardised(logits: Tensor) -> Tensor:
    """(z - mean) / deviation over the classes; 0, without a gradient, where all are the same."""
    if logits.shape[1] < 3:
        raise ConfigError(
            f"standardise needs 3 classes or more, got {logits.shape[1]}: two standardised logits "
            "are 1 and -1 whatever they were, and have no gradient"
        )
    centred = logits - logits.mean(dim=1, keepdim=True)
    largest = logits.detach().abs().amax(dim=1, keepdim=True)
    rounding = 16 * torch.finfo(logits.dtype).eps * largest
    same = centred.detach().abs().amax(dim=1, keepdim=True) <= rounding
    variance = centred.square().mean(dim=1, keepdim=True).masked_fill(same, 1)
    return centred.masked_fill(same, 0) * variance.rsqrt()


class PixelwiseKLTerm(EnsembleTerm):
    """`pixelwise_kl`."""

    name: Literal["pixelwise_kl"]
    temperature: Positive = 1.0
    direction: Direction = "teacher_student"
    standardise: bool = False

    def whole_logits(self) -> bool:
        """At another temperature the tail's classes are not alike, and neither is a log of them."""
        usual = self.temperature == 1 and self.direction == "teacher_student"
        return self.standardise or not usual

    def value(self, given: TermInput) -> Tensor:
        return pixelwise_kl(
            given.features,
            self.target(given),
            temperature=self.temperature,
            direction=self.direction,
            standardise=self.standardise,
            mask=given.mask,
        )
