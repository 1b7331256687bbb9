"""Where there is a depth, and whether it goes with a student's map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.stages.train.loss_parts.masks import demand_mask
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


def is_known(depth: Tensor, mask: Tensor | None) -> Tensor:
    """Return where a depth is given, and counts.

    Args:
        depth: (B, 1, H, W) metres
        mask: (B, 1, H, W) bool

    Returns:
        (B, 1, H, W) bool: above 0 and finite
    """
    known = depth.isfinite() & (depth > 0)
    return known if mask is None else known & mask


def demand_depth(student: Tensor, depth: Tensor, mask: Tensor | None, *, channels: int) -> None:
    """Refuse a student's map that is not (B, channels, H, W) for depth (B, 1, H, W).

    Raises:
        ArtifactError: naming both; or the mask is of another size or kind
    """
    expected = student.ndim == 4 and student.shape[1] == channels
    if not expected or tuple(depth.shape) != (len(student), 1, *student.shape[2:]):
        raise ArtifactError(
            f"the student's map is {tuple(student.shape)} and the depth {tuple(depth.shape)}; "
            f"they must be (B, {channels}, H, W) and (B, 1, H, W)"
        )
    demand_mask(mask, student)
