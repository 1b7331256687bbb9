"""CIRKD: how pixels relate to pixels of other frames, in the batch and in a memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

from stillroom.stages.train.losses.matched import matched, matched_grids
from stillroom.stages.train.losses.unit_vectors import unit_vectors
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def cross_image_pixel(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 0.1,
    chosen: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """KL between the similarities of a pixel to all pixels of a frame, over all pairs of frames.

    loss = mean_(b, d) mean_i KL(p_bdi || q_bdi)
    q_bdi = softmax over j of s_bi . s_dj / T,  p_bdi likewise of t;  |s_bi| = |t_bi| = 1
    b, d: frames of the batch, d = b among them;  i: pixels of b;  j: pixels of d

    student: (B, A, H, W) features
    teacher: (B, A', H, W) features; A' may be another number, only similarities are compared
    temperature: T above 0
    chosen: (B, n) int64 positions in H W that stand for the frame, -1 = none; None: all of them
    mask: (B, 1, H, W) bool, True where a pixel counts
    returns: () mean over the counted rows (b, i, d), in nats

    Frame by frame, with the intermediate results of one computed again for its gradient: memory is
    a few times B n^2 floats, whatever is in the features (n = H W without `chosen`), beside B n A;
    the work is B^2 n^2 A. `draw_pixels` makes a choice.

    Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR
    2022, the mini-batch pixel-to-pixel loss; arXiv:2204.06986. The teacher is the target, as in
    the authors' code, which compares all pixels, or 2x2 averages of them. Without a mask the mean
    is theirs.
    """
    student, teacher, counted = _vectors(student, teacher, chosen, mask)
    others = _Others(student, teacher, counted, temperature)
    rows = counted.sum() * counted.any(dim=1).sum()
    return _summed(student, teacher, counted, others) / rows.clamp(min=1)


def cross_image_memory(
    student: Tensor,
    teacher: Tensor,
    *,
    memory: Tensor,
    temperature: float = 0.1,
    chosen: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """KL between the similarities of a pixel to remembered vectors of the teacher.

    loss = mean_i KL(p_i || q_i)
    q_i = softmax over k of s_i . m_k / T,  p_i likewise of t;  |s_i| = |t_i| = 1

    student, teacher: (B, A, H, W) features, the student's brought to the teacher's channels
    memory: (K, A) vectors m of length 1; none give a loss of 0
    temperature: T above 0
    chosen: (B, n) int64 positions in H W that stand for the frame, -1 = none; None: all of them
    mask: (B, 1, H, W) bool, True where a pixel counts
    returns: () mean over the counted pixels, in nats

    Frame by frame, with the intermediate results of one computed again for its gradient: memory is
    a few times n K floats (n = H W without `chosen`), beside B n A and K A; the work is B n K A.

    Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR
    2022, the memory-based pixel-to-pixel and pixel-to-region losses, which differ in what the
    memory holds; arXiv:2204.06986. The authors' code takes every labelled pixel as i.
    """
    student, teacher = matched(student, teacher, mask)
    if memory.ndim != 2 or memory.shape[1] != student.shape[1]:
        raise ArtifactError(
            f"the memory must be (K, {student.shape[1]}) for features of {student.shape[1]} "
            f"channels, got {tuple(memory.shape)}"
        )
    student, teacher, counted = _vectors(student, teacher, chosen, mask)
    memory = memory.detach().to(student.dtype)[None]  # (1, K, A): as one frame
    there = torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device)
    others = _Others(memory, memory, there, temperature)
    if memory.shape[1] == 0:
        return student.sum() * 0
    return _summed(student, teacher, counted, others) / counted.sum().clamp(min=1)


@dataclass(frozen=True, eq=False)
class _Others:
    """What pixels are compared with: n vectors of length 1 in each of D frames, or a memory.

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
        """Sum of KL(p || q) over the counted pixels of one frame and the frames here.

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


def _summed(student: Tensor, teacher: Tensor, counted: Tensor, others: _Others) -> Tensor:
    """Sum over all frames, of which one at a time is in memory."""
    total = student.new_zeros(())
    with torch.autocast(student.device.type, enabled=False):
        for own in zip(student, teacher, counted, strict=True):
            total = total + checkpoint(
                others.kl, *own, use_reentrant=False, preserve_rng_state=False
            )
    return total


def _vectors(
    student: Tensor, teacher: Tensor, chosen: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Chosen pixels as vectors of length 1, (B, n, A) and (B, n, A'), and which count, (B, n)."""
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
