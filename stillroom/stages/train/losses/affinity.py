"""Affinity distillation: how alike each position is to every other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from stillroom.stages.train.loss_parts.masks import masked_mean, matched
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.stages.train.terms.code_term import CodeTerm

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def affinity(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Compare the affinity matrices of student and teacher, row by row.

    loss = mean over frames of sum_i |A_s(i, .) - A_t(i, .)|_2,
    A(i, j) = cos(x_i, x_j) / m,  m: counted positions of the frame,  i, j among them

    Memory: where C < N, the positions of a map, C x C matrices: with d = s - t and u = s + t of
    unit vectors, the difference of two cosines is (d_i u_j + u_i d_j) / 2, and a row's squared
    sum needs no more than sum_j u u^T, u d^T, d d^T. That is exactly 0 for equal maps. Else
    N x N matrices

    He et al., "Knowledge Adaptation for Efficient Semantic Segmentation", CVPR 2019, eq. 3 and 4,
    there with weight 1; arXiv:1903.04688. What differs: docs/losses/adaptation.md.

    Args:
        student, teacher: (B, C, H, W): the adapter's output, and the code of the teacher's features
        mask: (B, 1, H, W) bool, True where a position counts

    Returns:
        () mean over the frames in which a position counts; between 0 and 2 sqrt(m): it grows
        with the square root of m. A vector of zeros has cosine 0 with all
    """
    student, teacher = matched(student, teacher, mask)
    with torch.autocast(student.device.type, enabled=False):
        s, t = unit_vectors(student).flatten(2), unit_vectors(teacher).flatten(2)  # (B, C, N)
        squared = _rows_by_gram(s, t) if s.shape[1] < s.shape[2] else _rows_by_pairs(s, t)  # (B, N)
        positions = s.shape[2]
        if mask is None:
            return masked_mean(_root(squared).sum(1), None) / positions
        # What is masked is 0 in s and t, and adds nothing to rows.
        counted = mask.flatten(1)  # (B, N)
        rows = _root(squared).masked_fill(~counted, 0).sum(1)  # (B,)
        m = counted.sum(1)
        return masked_mean(rows / m.clamp(min=1), m > 0)


def _rows_by_pairs(s: Tensor, t: Tensor) -> Tensor:
    """Sum over j of (s_i s_j - t_i t_j)^2, through the N x N matrix."""
    difference = s.transpose(1, 2) @ s - t.transpose(1, 2) @ t  # (B, N, N)
    return difference.square().sum(2)


def _rows_by_gram(s: Tensor, t: Tensor) -> Tensor:
    """The same through C x C matrices: 1/4 (d G_uu d + 2 d G_ud u + u G_dd u) at each i."""
    d, u = s - t, s + t  # (B, C, N)
    uu, ud, dd = u @ u.transpose(1, 2), u @ d.transpose(1, 2), d @ d.transpose(1, 2)  # (B, C, C)
    return (d * (uu @ d) + 2 * d * (ud @ u) + u * (dd @ u)).sum(1).clamp(min=0) / 4


def _root(squared: Tensor) -> Tensor:
    """Square root; 0 has the gradient 0 and not infinity."""
    some = squared > 0
    return squared.masked_fill(~some, 1).sqrt().masked_fill(~some, 0)


class AffinityTerm(CodeTerm):
    """`affinity`."""

    name: Literal["affinity"]

    def value(self, given: TermInput) -> Tensor:
        return affinity(self.adapted(given), self.target(given), mask=given.mask)
