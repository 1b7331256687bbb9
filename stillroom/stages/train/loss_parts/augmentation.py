"""Features that are augmented without end, in closed form: what FAKD's losses share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.stages.train.loss_parts.masks import matched
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Augmentation:
    """How a student's features are augmented: x -> N(x, strength * covariance of its class).

    Attributes:
        weight: (C, A) the student's classifier; it gets a gradient
        variance: (C, A) diagonal covariance of the classifier's input, by class
        labels: (B, H, W) integer, the class of each pixel, 255 = none: its features stay as they
            are
        strength: lambda, 0 or more
    """

    weight: Tensor
    variance: Tensor
    labels: Tensor
    strength: float

    def parameters(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the classifier, and the variances without a gradient, in a dtype."""
        return self.weight.to(dtype), self.variance.detach().to(dtype)


def matched_with_labels(
    student: Tensor,
    teacher: Tensor,
    augmentation: Augmentation,
    temperature: float,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return student and teacher as `matched` does, and labels, int64, with C for none."""
    student, teacher = matched(student, teacher, mask)
    if temperature <= 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}")
    batch, classes, height, width = student.shape
    weight, variance, labels = augmentation.weight, augmentation.variance, augmentation.labels
    if weight.ndim != 2 or weight.shape[0] != classes or weight.shape != variance.shape:
        raise ArtifactError(
            f"classifier and variances must both be ({classes}, A) for logits of {classes} "
            f"classes, got {tuple(weight.shape)} and {tuple(variance.shape)}"
        )
    if labels.shape != (batch, height, width):
        raise ArtifactError(
            f"labels are {tuple(labels.shape)} for logits {tuple(student.shape)}; they must be "
            f"{(batch, height, width)}"
        )
    if not 0 <= augmentation.strength < float("inf"):
        raise ConfigError(f"strength must be 0 or more, got {augmentation.strength}")
    labels = labels.long()
    if mask is not None:
        labels = labels.masked_fill(~mask.squeeze(1), IGNORE)
    strange = (labels != IGNORE) & ((labels < 0) | (labels >= classes))
    if not strange.is_cuda and bool(strange.any()):
        raise ArtifactError(
            f"labels must be 0..{classes - 1} or {IGNORE} for a student of {classes} "
            f"classes, got {int(labels.min())}..{int(labels.max())}"
        )
    return student, teacher, labels.masked_fill(labels == IGNORE, classes)
