"""Cross entropy: the task's own loss, pseudo labels, and an auxiliary head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator
from torch import nn

from stillroom.stages.geometry import upsample_logits
from stillroom.stages.train.losses import LOSSES
from stillroom.stages.train.terms.term import Seen, Sizes, Term, TermState
from stillroom.storage_specs.artifacts import LABELS

if TYPE_CHECKING:
    from torch import Tensor


class LabelTerm(Term):
    """Labels on labelled streams; on unlabelled ones the pseudo labels of the teacher, if named.

    threshold: least confidence of a pseudo label, for raising the one of the cache without a new
        build; reads the teacher's confidence. None keeps the cache's own
    """

    threshold: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _threshold_has_a_teacher(self) -> LabelTerm:
        if self.threshold is not None and self.teacher is None:
            raise ValueError("threshold selects among a teacher's pseudo labels: name the teacher")
        return self

    def reads(self, labelled: bool) -> frozenset[str]:
        """Labels; pseudo labels, and confidence where a threshold is set."""
        if labelled:
            return frozenset({LABELS})
        if self.teacher is None:
            return frozenset()
        artifacts = ["pseudo_label"] + (["confidence"] if self.threshold is not None else [])
        return frozenset(self.key(artifact) for artifact in artifacts)

    def of_logits(self, seen: Seen, logits: Tensor) -> Tensor:
        """Cross entropy at the label map's size, the logits of the term's grid upsampled."""
        labels = seen.label_map()
        mask = None if seen.batch.labelled else self._believed(seen, labels)
        logits = upsample_logits(logits, seen.stride, (labels.shape[1], labels.shape[2]))
        return LOSSES["cross_entropy"](logits, labels, mask=mask)

    def _believed(self, seen: Seen, labels: Tensor) -> Tensor:
        """Tell which pseudo labels to believe: teachers label a canvas' padding as well."""
        height, width = labels.shape[1:]
        mask = seen.pixel_mask
        if self.threshold is not None:
            confidence = upsample_logits(seen.artifact("confidence"), seen.stride, (height, width))
            mask = mask & (confidence >= self.threshold)
        return mask


class CrossEntropyTerm(LabelTerm):
    """`losses.cross_entropy` of the student's logits."""

    name: Literal["cross_entropy"]

    def value(self, seen: Seen) -> Tensor:
        """Compare the student's logits with the labels."""
        return self.of_logits(seen, seen.output.logits)


class AuxiliaryCrossEntropyTerm(LabelTerm):
    """`losses.cross_entropy` of a second classifier on one of the student's inner layers.

    The classifier trains with the student and is left out of what is exported, as PSPNet's
    auxiliary head is: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, section 3.3, there
    with weight 0.4. arXiv:1612.01105

    layer: a feature layer of the student, as "stage4"
    """

    name: Literal["auxiliary_cross_entropy"]
    weight: float = Field(default=0.4, gt=0, allow_inf_nan=False)
    layer: str = "stage4"

    @property
    def grid(self) -> str:
        """That of the layer."""
        return f"features/{self.layer}"

    def state(self, sizes: Sizes) -> TermState:
        """Make the head."""
        return AuxiliaryHead(sizes.channels(self, self.grid), sizes.classes)

    def value(self, seen: Seen) -> Tensor:
        """Classify the layer, and compare that with the labels."""
        if seen.state is None:
            raise TypeError(f"term {self.label} was given no state")
        return self.of_logits(seen, seen.state(seen.features))


class AuxiliaryHead(TermState):
    """Two convolutions from features (B, A, h, w) to logits (B, C, h, w)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        inner = max(channels // 4, classes)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(inner, classes, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features to logits; the student's may be float16, and losses are computed in float32."""
        logits: Tensor = self.layers(features.to(next(self.parameters()).dtype))
        return logits
