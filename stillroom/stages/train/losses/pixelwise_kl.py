"""Pixel-wise distillation: KL between the class distributions of each pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F

from stillroom.stages.train.losses.masked_mean import masked_mean
from stillroom.stages.train.losses.matched import matched
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Direction = Literal["teacher_student", "student_teacher"]


def pixelwise_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    direction: Direction = "teacher_student",
    mask: Tensor | None = None,
) -> Tensor:
    """KL between the class distributions of each pixel.

    teacher_student: loss = T^2 * mean_i sum_c p_ic * log(p_ic / q_ic)
    student_teacher: loss = T^2 * mean_i sum_c q_ic * log(q_ic / p_ic)
    p, q = softmax over classes of teacher/T, student/T

    student, teacher: (B, C, H, W) logits
    temperature: T above 0; T^2 keeps the size of the gradient as T grows
    mask: (B, 1, H, W) bool, True where a pixel counts
    returns: () mean over the counted pixels of the batch, in nats

    Liu et al., "Structured Knowledge Distillation for Dense Prediction", TPAMI 2020, the
    pixel-wise term; arXiv:1903.04197. T^2: Hinton et al., 2015, section 2; arXiv:1503.02531.
    Y. Liu's thesis ("Efficient Fully Convolutional Networks for Dense Prediction Tasks", Adelaide
    2021) prints KL(student || teacher) in eq. 3.1: that is `student_teacher`; its code and all
    others take the teacher as target, the default here. The released SKD code divides a sum over
    batch and pixels by H * W only, B times this; code with KLDiv "mean" divides by C as well.
    """
    if temperature <= 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}")
    student, teacher = matched(student, teacher, mask)
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
