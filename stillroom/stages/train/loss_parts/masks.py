"""The first and the last step of losses: two maps fit to be compared, a mean of what counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stillroom.stages.across_ranks import mean_of_all
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


def matched(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return student and teacher fit to be compared: same shape, float32, masked pixels 0.

    Masked pixels are overwritten before any arithmetic, since a NaN there would survive being
    multiplied by 0 on the way back. No gradient reaches the teacher.

    Args:
        student, teacher: (B, C, H, W), any floating dtype; float64 stays float64
        mask: (B, 1, H, W) bool or None

    Raises:
        ArtifactError: where the shapes differ, naming both
    """
    if student.ndim != 4 or student.shape != teacher.shape:
        raise ArtifactError(
            f"the student's map is {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)}; both must be the same (B, C, H, W)"
        )
    return matched_grids(student, teacher, mask)


def matched_grids(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Do as `matched` for a loss that compares relations: channels may differ in number.

    Args:
        student: (B, C, H, W), any floating dtype; float64 stays float64
        teacher: (B, C', H, W), likewise
        mask: (B, 1, H, W) bool or None

    Raises:
        ArtifactError: where the grids differ, naming both shapes
    """
    grids = [(part.shape[0], *part.shape[2:]) for part in (student, teacher)]
    if student.ndim != 4 or teacher.ndim != 4 or grids[0] != grids[1]:
        raise ArtifactError(
            f"the student's map is {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)}; they must be (B, C, H, W) and (B, C', H, W)"
        )
    demand_mask(mask, student)
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    student, teacher = student.to(dtype), teacher.detach().to(dtype)
    if mask is not None:
        student, teacher = student.masked_fill(~mask, 0), teacher.masked_fill(~mask, 0)
    return student, teacher


def demand_mask(mask: Tensor | None, maps: Tensor, name: str = "mask") -> None:
    """Refuse a mask (ArtifactError) that is not (B, 1, H, W) bool for maps (B, C, H, W)."""
    expected = (maps.shape[0], 1, *maps.shape[2:])
    if mask is not None and (tuple(mask.shape) != expected or mask.dtype != torch.bool):
        raise ArtifactError(
            f"{name} must be {expected} torch.bool, got {tuple(mask.shape)} {mask.dtype}"
        )


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of the values whose pixel counts.

    loss = sum_i m_i * v_i / max(1, sum_i m_i),  i over all pixels of the batch, of all ranks

    So each counted pixel weighs the same, whichever frame it is in and whichever rank has that, and
    nothing counted gives 0 that can still be differentiated. Of several ranks each returns its
    share, see `mean_of_all`.

    Args:
        values: (B, H, W)
        mask: (B, H, W) or (B, 1, H, W) bool, True where a pixel counts; None counts all

    Returns:
        ()
    """
    if mask is None:
        return mean_of_all(values.sum(), torch.full((), values.numel(), device=values.device))
    if mask.ndim == values.ndim + 1:
        mask = mask.squeeze(1)
    if mask.shape != values.shape:
        raise ArtifactError(f"mask is {tuple(mask.shape)} for pixels {tuple(values.shape)}")
    return mean_of_all(values.masked_fill(~mask, 0).sum(), mask.sum())
