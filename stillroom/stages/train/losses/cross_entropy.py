"""Cross entropy with a label map: the task's own loss, or pseudo labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from stillroom.stages.train.loss_parts.masks import demand_mask, masked_mean
from stillroom.stages.train.terms.term import Term
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.artifacts import IGNORE, LABELS, PIXEL_CONFIDENCE, PSEUDO_LABEL
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


def cross_entropy(student: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Take the cross entropy of each pixel with its label.

    loss = mean_i -log q_i,y(i),  q = softmax over classes of student,  i: pixels with a label

    L_S of Xie et al., "Improving Fast Segmentation With Teacher-student Learning", BMVC 2018,
    eq. 1; arXiv:1810.08476.

    Args:
        student: (B, C, H, W) logits at the label map's size
        labels: (B, H, W) integer, 255 where a pixel has no label
        mask: (B, 1, H, W) bool, True where a pixel counts

    Returns:
        () mean over the labelled, counted pixels of the batch; 0 where there are none

    Raises:
        ArtifactError: where sizes differ, or a label is neither a class nor 255 (the range is
            checked on the CPU only: on a CUDA device the kernel's own assertion stops the run)
    """
    if student.ndim != 4 or labels.shape != (student.shape[0], *student.shape[2:]):
        raise ArtifactError(
            f"student logits are {tuple(student.shape)} and labels {tuple(labels.shape)}; "
            "they must be (B, C, H, W) and (B, H, W)"
        )
    labels = labels.long()
    if labels.device.type == "cpu":
        _demand_classes(labels[labels != IGNORE], student.shape[1])
    demand_mask(mask, student)
    if mask is not None:
        labels = labels.masked_fill(~mask.squeeze(1), IGNORE)
    student = student.to(torch.promote_types(student.dtype, torch.float32))
    surprise = F.cross_entropy(student, labels, ignore_index=IGNORE, reduction="none")
    return masked_mean(surprise, labels != IGNORE)


def _demand_classes(labels: Tensor, classes: int) -> None:
    if labels.numel() and (labels.min() < 0 or labels.max() >= classes):
        raise ArtifactError(
            f"labels must be 0..{classes - 1} or {IGNORE} for a student of {classes} "
            f"classes, got {int(labels.min())}..{int(labels.max())}"
        )


class LabelTerm(Term):
    """Labels on labelled streams; on unlabelled ones the pseudo labels of the teacher, if named.

    Attributes:
        threshold: least confidence of a pseudo label, for raising the one of the cache without a
            new build; reads the teacher's pixel_confidence. None keeps the cache's own
    """

    threshold: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _threshold_has_a_teacher(self) -> LabelTerm:
        if self.threshold is not None and self.teacher is None:
            raise ValueError("threshold selects among a teacher's pseudo labels: name the teacher")
        return self

    def reads(self, labelled: bool) -> frozenset[str]:
        if labelled:
            return frozenset({LABELS})
        if self.teacher is None:
            return frozenset()
        artifacts = [PSEUDO_LABEL] + ([PIXEL_CONFIDENCE] if self.threshold is not None else [])
        return frozenset(self.key(artifact) for artifact in artifacts)

    def of_logits(self, given: TermInput, logits: Tensor) -> Tensor:
        """Return the cross entropy at the label map's size, to which the logits are upsampled."""
        labels = given.label_map()
        size = (labels.shape[1], labels.shape[2])
        mask = None
        if self.threshold is not None and not given.batch.labelled:
            mask = given.artifact(PIXEL_CONFIDENCE) >= self.threshold
        return cross_entropy(upsample_logits(logits, given.stride, size), labels, mask=mask)


class CrossEntropyTerm(LabelTerm):
    """`cross_entropy` of the student's logits."""

    name: Literal["cross_entropy"]

    def value(self, given: TermInput) -> Tensor:
        return self.of_logits(given, given.features)
