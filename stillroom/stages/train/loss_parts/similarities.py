"""Similarities of pixels to many others, and how far two networks' are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

from stillroom.stages.across_ranks import ALL
from stillroom.stages.train.loss_parts.masks import matched_grids
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.across_ranks import Rows


@dataclass(frozen=True, eq=False)
class Others:
    """What pixels are compared with: n vectors of length 1 in each of D frames, or a memory.

    Attributes:
        student: (D, n, A); teacher: (D, n, A'); counted: (D, n) bool
    """

    student: Tensor
    teacher: Tensor
    counted: Tensor
    temperature: float

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")

    def kl(self, student: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
        """Sum KL(p || q) over the counted pixels of one frame and the frames here.

        Args:
            student: (m, A); teacher: (m, A'); counted: (m,) bool
        """
        log_q = self._log_softmax(student, self.student)  # (m, D, n)
        log_p = self._log_softmax(teacher, self.teacher)
        rows = (log_p.exp() * (log_p - log_q)).sum(dim=2)  # (m, D)
        return rows.masked_fill(~(counted[:, None] & self.counted.any(dim=1)), 0).sum()

    def _log_softmax(self, own: Tensor, others: Tensor) -> Tensor:
        similar = (own @ others.flatten(0, 1).T).view(-1, *self.counted.shape)
        # Not -inf: a frame in which nothing counts has a softmax as well, and is left out later.
        lowest = torch.finfo(similar.dtype).min
        similar = (similar / self.temperature).masked_fill(~self.counted, lowest)
        return similar.log_softmax(dim=2)


def summed_kl(student: Tensor, teacher: Tensor, counted: Tensor, others: Others) -> Tensor:
    """Sum the KL of all frames, of which one at a time is in memory."""
    total = student.new_zeros(())
    with torch.autocast(student.device.type, enabled=False):
        for own in zip(student, teacher, counted, strict=True):
            total = total + checkpoint(
                others.kl, *own, use_reentrant=False, preserve_rng_state=False
            )
    return total


def unit_pixels(
    student: Tensor, teacher: Tensor, chosen: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return chosen pixels as unit vectors, (B, n, A) and (B, n, A'), and which count, (B, n)."""
    student, teacher = matched_grids(student, teacher, mask)
    batch, _, height, width = student.shape
    if chosen is None:
        chosen = torch.arange(height * width, device=student.device).expand(batch, -1)
    elif chosen.ndim != 2 or len(chosen) != batch or chosen.dtype != torch.int64:
        raise ArtifactError(
            f"chosen must be ({batch}, n) torch.int64, got {tuple(chosen.shape)} {chosen.dtype}"
        )
    counted, at = chosen >= 0, chosen.clamp(min=0)
    if mask is not None:
        counted = counted & mask.flatten(1).gather(1, at)
    found = []
    for features in (student, teacher):
        index = at[:, None].expand(-1, features.shape[1], -1)
        vectors = features.flatten(2).gather(2, index).transpose(1, 2)  # (B, n, A)
        found.append(unit_vectors(vectors.masked_fill(~counted[..., None], 0), dim=2))
    return found[0], found[1], counted


def draw_pixels(mask: Tensor, number: int, rows: Rows = ALL) -> Tensor:
    """Draw pixels without replacement, from torch's global generator.

    Args:
        mask: (B, 1, H, W) bool, True where a pixel may be drawn
        number: of pixels a frame, above 0
        rows: which frames of the batch of all ranks these are

    Returns:
        (B, n) int64 positions in H W, n = min(number, H W); -1 where a frame has no more
    """
    flat = mask.flatten(1)  # (B, HW)
    draws = rows.rand(flat.shape, device=flat.device).masked_fill(~flat, -1)
    found = draws.topk(min(number, flat.shape[1]), dim=1)
    return found.indices.masked_fill(found.values < 0, -1)
