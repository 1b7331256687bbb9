"""DIST: correlations between the class probabilities of student and teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator

from stillroom.stages.across_ranks import largest, summed
from stillroom.stages.train.loss_parts.masks import masked_mean, matched
from stillroom.stages.train.terms.logits_term import EnsembleTerm
from stillroom.stages.train.terms.term import NotNegative, Positive
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def dist(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    epsilon: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Take one minus the correlation of class probabilities, in each pixel and in each class.

    loss = beta * mean_i (1 - r(q_i., p_i.)) + gamma * mean_c (1 - r(q_.c, p_.c))
    q, p = softmax over classes of student/T, teacher/T
    r(a, b) = a' . b' / (|a'| |b'| + epsilon),  a' = a - mean(a): Pearson's correlation

    Memory: a few times B C H W

    Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, section 3, with
    pixels as samples; arXiv:2205.10536. What differs: docs/losses/correlation.md.

    Args:
        student, teacher: (B, C, H, W) logits
        temperature: T above 0
        beta, gamma: weights of the two parts, inter-class (over the C classes of a pixel) and
            intra-class (over all counted pixels of the batch, of one class), 0 or more
        epsilon: 0: the correlation itself. Above: classes and pixels whose probabilities hardly
            vary drop out, at a constant 1 each
        mask: (B, 1, H, W) bool, True where a pixel counts

    Returns:
        () between 0 and 2 (beta + gamma). A pixel, or a class, whose probabilities are all the
        same to the teacher does not count; one that is so to the student alone counts with r = 0,
        and has no gradient
    """
    if temperature <= 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}")
    if min(beta, gamma, epsilon) < 0 or beta + gamma == 0:
        raise ConfigError(
            "beta, gamma and epsilon must be 0 or more, and one of beta and gamma above 0, got "
            f"{beta}, {gamma} and {epsilon}"
        )
    student, teacher = matched(student, teacher, mask)
    q = F.softmax(student / temperature, dim=1)
    p = F.softmax(teacher / temperature, dim=1)
    ones = torch.ones_like(q[:, :1], dtype=torch.bool) if mask is None else mask
    apart, told = _apart(q, p, ones.expand_as(q), (1,), epsilon)  # (B, 1, H, W)
    between = masked_mean(apart, told & ones)
    apart, told = _apart(q, p, ones.expand_as(q), (0, 2, 3), epsilon)  # (1, C, 1, 1), of all ranks
    within = apart.masked_fill(~told, 0).sum() / told.sum().clamp(min=1)
    return beta * between + gamma * within


def _apart(
    q: Tensor, p: Tensor, counted: Tensor, dims: tuple[int, ...], epsilon: float
) -> tuple[Tensor, Tensor]:
    """1 - r along dims, and where the teacher's side varies; dims stay, as 1.

    By 1 - r = |a - b|^2 / 2 for unit vectors, which is 0 exactly where they are equal. Along the
    frames they are those of all ranks.
    """
    a, size_a, varies_a = _centred_unit(q, counted, dims)
    b, size_b, varies_b = _centred_unit(p, counted, dims)
    apart = _sum((a - b).square(), dims) / 2
    if epsilon > 0:
        product = size_a * size_b
        apart = 1 - (1 - apart) * (product / (product + epsilon))
    return apart.masked_fill(~varies_a, 1), varies_b


def _centred_unit(
    values: Tensor, counted: Tensor, dims: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Values less their mean, at length 1; the length; where they vary beyond rounding.

    Values are scaled by the largest before they are squared: probabilities of 1e-30 have a
    correlation too, and their squares are no float32.
    """
    number = _sum(counted, dims).clamp(min=1)
    mean = _sum(values.masked_fill(~counted, 0), dims) / number
    centred = (values - mean).masked_fill(~counted, 0)
    most = centred.detach().abs().amax(dim=dims, keepdim=True)
    most = largest(most) if 0 in dims else most
    varies = most > 16 * torch.finfo(values.dtype).eps * mean.detach().abs()
    scale = most.masked_fill(~varies, 1)
    scaled = (centred / scale).masked_fill(~varies, 1)  # a norm of 0 has no gradient
    norm = _sum(scaled.square(), dims).sqrt()
    return (scaled / norm).masked_fill(~(varies & counted), 0), norm * scale, varies


def _sum(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    total = values.sum(dim=dims, keepdim=True)
    return summed(total) if 0 in dims else total


class DistTerm(EnsembleTerm):
    """`dist`."""

    name: Literal["dist"]
    temperature: Positive = 1.0
    beta: NotNegative = 1.0
    gamma: NotNegative = 1.0
    epsilon: NotNegative = 0.0

    @model_validator(mode="after")
    def _there_is_a_part(self) -> DistTerm:
        if self.beta + self.gamma == 0:
            raise ValueError("one of beta and gamma must be above 0")
        return self

    def value(self, given: TermInput) -> Tensor:
        return dist(
            given.features,
            self.target(given),
            temperature=self.temperature,
            beta=self.beta,
            gamma=self.gamma,
            epsilon=self.epsilon,
            mask=given.mask,
        )
