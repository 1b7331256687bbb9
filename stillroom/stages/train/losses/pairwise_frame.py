"""Pair-wise-frame distillation: how alike the places of one frame are to those of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt

from stillroom.stages.across_ranks import mean_of_all
from stillroom.stages.train.loss_parts.masks import matched
from stillroom.stages.train.loss_parts.patches import counted_patches, patch_sums
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.stages.train.reads import TRIPLETS
from stillroom.stages.train.terms.logits_term import LogitsTerm
from stillroom.stages.train.terms.term import Positive
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def pairwise_frame(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    of: Literal["probabilities", "logits"] = "probabilities",
    patch: int = 1,
    mask: Sequence[Tensor] | None = None,
) -> Tensor:
    """Compare the cosines between the places of frame t and those of frame t+k.

    loss = 1/N^2 sum_i sum_j (a_s,ij - a_t,ij)^2,  a_ij = q_t,i . q_t+k,j / (|q_t,i| |q_t+k,j|)
    q: class probabilities, or logits, summed over the counted positions of place i

    Memory: where C < N, as with classes: about three times the four maps and B C^2, never N^2. The
    difference of two cosines is (d_i u'_j + u_i d'_j) / 2 with d = s - t and u = s + t of unit
    vectors, so that the sum of its squares needs C x C matrices alone. It is exactly 0 for
    equal maps. Otherwise B N^2.

    Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference", ECCV 2020, eq. 2;
    arXiv:2002.11433; Y. Liu, "Efficient Fully Convolutional Networks for Dense Prediction Tasks",
    PhD thesis, Adelaide 2021, eq. 5.2, there with weight 0.1. What differs:
    docs/losses/temporal.md.

    Args:
        student, teacher: two maps each, t and t+k, (B, C, H, W) logits, all of one shape
        of: "probabilities" is the paper's; "logits" is what the authors' code compares
        patch: positions a side of a place, 1 or more
        mask: two, (B, 1, H, W) bool, True where a position counts; a place counts where one of its
            positions does

    Returns:
        () mean over the counted pairs (i, j) of the batch; between 0 and 1 with probabilities,
        whose cosines are none below 0, and 0 and 4 with logits. A vector of zeros has cosine 0 with
        all
    """
    if of not in ("probabilities", "logits"):
        raise ConfigError(f"of must be 'probabilities' or 'logits', got {of!r}")
    if patch < 1:
        raise ConfigError(f"patch must be 1 or more cells a side, got {patch}")
    masks = _demand_pairs(student, teacher, mask)
    with torch.autocast(student[0].device.type, enabled=False):
        (s, t), (s_later, t_later) = (
            _places(matched(one, other, shown), of, patch, shown)
            for one, other, shown in zip(student, teacher, masks, strict=True)
        )  # (B, C, N) each
        batch, channels, places = s.shape
        squared = _by_gram if channels < places else _by_pairs
        total = squared((s, t), (s_later, t_later))
        now, later = masks
        if now is None or later is None:
            return mean_of_all(total, torch.full((), batch * places**2, device=total.device))
        counts = [counted_patches(part, patch).flatten(1).sum(1) for part in (now, later)]  # (B,)
        return mean_of_all(total, (counts[0] * counts[1]).sum())


def _places(
    maps: tuple[Tensor, Tensor], of: str, patch: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Student and teacher as unit vectors of places, (B, C, N); 0 where none counts."""
    if of == "probabilities":
        maps = (F.softmax(maps[0], dim=1), F.softmax(maps[1], dim=1))
        if mask is not None:  # the logits 0 of a masked position would be a uniform guess
            maps = (maps[0].masked_fill(~mask, 0), maps[1].masked_fill(~mask, 0))
    one, other = (unit_vectors(patch_sums(part, patch)).flatten(2) for part in maps)
    return one, other


def _by_pairs(now: tuple[Tensor, Tensor], later: tuple[Tensor, Tensor]) -> Tensor:
    """Sum over b, i, j of (s_i . s'_j - t_i . t'_j)^2, through the N x N matrices."""
    (s, t), (s_later, t_later) = now, later
    difference = s.transpose(1, 2) @ s_later - t.transpose(1, 2) @ t_later  # (B, N, N)
    return difference.square().sum()


def _by_gram(now: tuple[Tensor, Tensor], later: tuple[Tensor, Tensor]) -> Tensor:
    """The same through C x C: 1/4 of dd' : u'u'^T + 2 du : u'd'^T + uu : d'd'^T."""
    (s, t), (s_later, t_later) = now, later
    d, u, d_later, u_later = s - t, s + t, s_later - t_later, s_later + t_later

    def gram(one: Tensor, other: Tensor) -> Tensor:
        return one @ other.transpose(1, 2)  # (B, C, C)

    total = (
        (gram(d, d) * gram(u_later, u_later)).sum()
        + 2 * (gram(d, u) * gram(u_later, d_later)).sum()
        + (gram(u, u) * gram(d_later, d_later)).sum()
    )
    return total.clamp(min=0) / 4  # rounding may leave less than 0


def _demand_pairs(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Sequence[Tensor] | None
) -> Sequence[Tensor | None]:
    lengths = [len(student), len(teacher)] + ([] if mask is None else [len(mask)])
    if set(lengths) != {2}:
        raise ArtifactError(
            f"two frames are compared, t and t+k: expected 2 maps of each, got {lengths[0]} of the "
            f"student, {lengths[1]} of the teacher"
            + (f" and {lengths[2]} masks" if mask is not None else "")
        )
    if student[0].shape != student[1].shape:
        raise ArtifactError(
            f"the student's maps are {tuple(student[0].shape)} at t and {tuple(student[1].shape)} "
            "at t+k; both must be the same (B, C, H, W)"
        )
    return (None, None) if mask is None else mask


class PairwiseFrameTerm(LogitsTerm):
    """`pairwise_frame` over all pairs of the batch; it needs triplets, and no flow.

    Attributes:
        of: "probabilities", the paper's, or "logits"
        patch: positions a side of a place; memory does not grow with the pairs of places, so that 1
            is bounded as well
    """

    name: Literal["pairwise_frame"]
    weight: Positive = 0.1
    of: Literal["probabilities", "logits"] = "probabilities"
    patch: PositiveInt = 1

    def reads(self, labelled: bool) -> frozenset[str]:
        return super().reads(labelled) | {TRIPLETS}

    def whole_logits(self) -> bool:
        return self.of == "logits"

    def value(self, given: TermInput) -> Tensor:
        sides = given.triplets.pairs.unbind(1)
        student, teacher, mask = given.features, self.target(given), given.mask
        return pairwise_frame(
            [student[side] for side in sides],
            [teacher[side] for side in sides],
            of=self.of,
            patch=self.patch,
            mask=[mask[side] for side in sides],
        )
