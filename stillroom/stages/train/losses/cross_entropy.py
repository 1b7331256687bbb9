"""Cross entropy with a label map: the task's own loss, or pseudo labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from stillroom.stages.across_ranks import mean_of_all
from stillroom.stages.train.loss_parts.masks import demand_mask, masked_mean
from stillroom.stages.train.terms.term import NotNegative, Term, TermState
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.artifacts import IGNORE, LABELS, PIXEL_CONFIDENCE, PSEUDO_LABEL
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import Sizes, TermInput


def cross_entropy(
    student: Tensor,
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Take the cross entropy of each pixel with its label.

    loss = mean_i -log q_i,y(i),  q = softmax over classes of student,  i: pixels with a label;
    with class weights w: sum_i -w_y(i) log q_i,y(i) / sum_i w_y(i), as in torch

    L_S of Xie et al., "Improving Fast Segmentation With Teacher-student Learning", BMVC 2018,
    eq. 1; arXiv:1810.08476.

    Args:
        student: (B, C, H, W) logits at the label map's size
        labels: (B, H, W) integer, 255 where a pixel has no label
        mask: (B, 1, H, W) bool, True where a pixel counts
        class_weights: (C,), 0 and more

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
    counted = labels != IGNORE
    if class_weights is None:
        surprise = F.cross_entropy(student, labels, ignore_index=IGNORE, reduction="none")
        return masked_mean(surprise, counted)
    weights = class_weights.to(student)
    surprise = F.cross_entropy(student, labels, weights, ignore_index=IGNORE, reduction="none")
    whole = (weights[labels.masked_fill(~counted, 0)] * counted).sum()
    # 0 where no pixel with a weight is labelled, as it is without weights
    return mean_of_all(surprise.sum(), whole, torch.finfo(whole.dtype).tiny)


def _demand_classes(labels: Tensor, classes: int) -> None:
    if labels.numel() and (labels.min() < 0 or labels.max() >= classes):
        raise ArtifactError(
            f"labels must be 0..{classes - 1} or {IGNORE} for a student of {classes} "
            f"classes, got {int(labels.min())}..{int(labels.max())}"
        )


class WeightedClasses(TermState):
    """The weights of classes, on the device; they come from the config every time."""

    class_weights: Tensor | None

    def __init__(self, class_weights: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights, persistent=False)


class LabelTerm(Term):
    """Labels on labelled streams; on unlabelled ones the pseudo labels of the teacher, if named.

    Attributes:
        threshold: least confidence of a pseudo label, for raising the one of the cache without a
            new build; reads the teacher's pixel_confidence. None keeps the cache's own
        class_weights: what pixels of each class weigh, by its name; 1 where one is left out
    """

    threshold: float | None = Field(default=None, gt=0, lt=1)
    class_weights: dict[str, NotNegative] | None = None

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

    def weights(self, sizes: Sizes) -> Tensor | None:
        """Return the weight of each class, (C,); None where all weigh the same.

        Raises:
            ConfigError: there is no class of a name, or no class weighs anything.
        """
        if self.class_weights is None:
            return None
        for name in self.class_weights:
            if name not in sizes.names:
                raise ConfigError(
                    f"term {self.label}: class_weights names {name!r}, and the student's classes "
                    f"are {', '.join(sizes.names)}"
                )
        found = torch.tensor([self.class_weights.get(name, 1.0) for name in sizes.names])
        if not found.any():
            raise ConfigError(f"term {self.label}: class_weights are all 0: nothing is learned")
        return found

    def of_logits(self, given: TermInput, logits: Tensor) -> Tensor:
        """Return the cross entropy at the label map's size, to which the logits are upsampled."""
        labels = given.label_map()
        size = (labels.shape[1], labels.shape[2])
        mask = None
        if self.threshold is not None and not given.batch.labelled:
            mask = given.artifact(PIXEL_CONFIDENCE) >= self.threshold
        weights = None if given.state is None else given.kept(WeightedClasses).class_weights
        logits = upsample_logits(logits, given.stride, size)
        return cross_entropy(logits, labels, mask=mask, class_weights=weights)


class CrossEntropyTerm(LabelTerm):
    """`cross_entropy` of the student's logits."""

    name: Literal["cross_entropy"]

    def state(self, sizes: Sizes) -> TermState | None:
        weights = self.weights(sizes)
        return None if weights is None else WeightedClasses(weights)

    def value(self, given: TermInput) -> Tensor:
        return self.of_logits(given, given.features)
