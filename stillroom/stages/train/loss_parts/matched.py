"""The first step of every loss between two tensors: checks, dtype, masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


def matched(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return student and teacher fit to be compared: same shape, float32, masked pixels 0.

    Masked pixels are overwritten before any arithmetic, since a NaN there would survive being
    multiplied by 0 on the way back. No gradient reaches the teacher.

    student, teacher: (B, C, H, W), any floating dtype; float64 stays float64
    mask: (B, 1, H, W) bool or None
    raises: ArtifactError where the shapes differ, naming both
    """
    if student.ndim != 4 or student.shape != teacher.shape:
        raise ArtifactError(
            f"the student's map is {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)}; both must be the same (B, C, H, W)"
        )
    return matched_grids(student, teacher, mask)


def matched_grids(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Do as `matched` for a loss that compares relations: channels may differ in number.

    student: (B, C, H, W), any floating dtype; float64 stays float64
    teacher: (B, C', H, W), likewise
    mask: (B, 1, H, W) bool or None
    raises: ArtifactError where the grids differ, naming both shapes
    """
    grids = [(part.shape[0], *part.shape[2:]) for part in (student, teacher)]
    if student.ndim != 4 or teacher.ndim != 4 or grids[0] != grids[1]:
        raise ArtifactError(
            f"the student's map is {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)}; they must be (B, C, H, W) and (B, C', H, W)"
        )
    expected = (student.shape[0], 1, *student.shape[2:])
    if mask is not None and (tuple(mask.shape) != expected or mask.dtype != torch.bool):
        raise ArtifactError(
            f"mask must be {expected} torch.bool, got {tuple(mask.shape)} {mask.dtype}"
        )
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    student, teacher = student.to(dtype), teacher.detach().to(dtype)
    if mask is not None:
        student, teacher = student.masked_fill(~mask, 0), teacher.masked_fill(~mask, 0)
    return student, teacher
