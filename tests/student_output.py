"""What a student says of a batch, from logits and features by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.stages.models.student import StudentOutput

if TYPE_CHECKING:
    from torch import Tensor


def student_output(logits: Tensor, features: dict[str, Tensor] | None = None) -> StudentOutput:
    """Return the output of a student with a head of segmentation."""
    layers = {f"features/{layer}": grid for layer, grid in (features or {}).items()}
    return StudentOutput({"logits": logits, **layers})
