"""MGD: the teacher's features, generated from what is left of the student's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stillroom.stages.train.losses.masked_mean import masked_mean
from stillroom.stages.train.losses.matched import matched
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def masked_generative(
    student: Tensor,
    teacher: Tensor,
    *,
    generate: Callable[[Tensor], Tensor],
    keep: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Squared error of the teacher's features, generated from a part of the student's positions.

    loss = mean_i mean_a (g_a(k * s)_i - t_ai)^2

    student: (B, A, H, W) features s, brought to the teacher's channels
    teacher: (B, A, H, W) features t
    generate: g, from (B, A, H, W) to the same
    keep: (B, 1, H, W) bool k, True where the student's features reach g; `draw_keep` makes one
    mask: (B, 1, H, W) bool, True where a position counts; one that does not is 0 to g, as a
        position that was not kept
    returns: () mean over the counted positions and the channels, kept or not; in the features'
        own unit, squared

    Yang et al., "Masked Generative Distillation", ECCV 2022, section 3; arXiv:2205.01529. The
    paper and its code sum over channels and positions and divide by B: their weight w (2e-5 for
    segmentation) is w A H W here.
    """
    student, teacher = matched(student, teacher, mask)
    expected = (student.shape[0], 1, *student.shape[2:])
    if tuple(keep.shape) != expected or keep.dtype != torch.bool:
        raise ArtifactError(
            f"keep must be {expected} torch.bool, got {tuple(keep.shape)} {keep.dtype}"
        )
    with torch.autocast(student.device.type, enabled=False):
        generated = generate(student.masked_fill(~keep, 0))
    if generated.shape != teacher.shape:
        raise ArtifactError(
            f"generate made {tuple(generated.shape)} of {tuple(student.shape)}; expected "
            f"{tuple(teacher.shape)}"
        )
    return masked_mean((generated - teacher).square().mean(dim=1), mask)


def draw_keep(like: Tensor, ratio: float) -> Tensor:
    """Keep each position with probability 1 - ratio, by torch's global generator.

    like: (B, A, H, W) features
    returns: (B, 1, H, W) bool
    """
    batch, _, height, width = like.shape
    return torch.rand(batch, 1, height, width, device=like.device) >= ratio
