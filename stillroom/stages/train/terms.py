"""Terms: one loss each, with its weight, its teacher and what it reads from a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from stillroom.stages.geometry import upsample_logits
from stillroom.stages.settings import Settings
from stillroom.stages.train.losses import LOSSES
from stillroom.stages.train.losses.pixelwise_kl import Direction
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.models.student import StudentOutput
    from stillroom.stages.train.batch import Batch

LABELS = "labels"  # what a labelled stream has beside its artifacts


class Term(Settings):
    """What all terms have: a name among LOSSES, a weight and perhaps a teacher.

    weight: factor in the objective, above 0; a term that is not wanted is left out
    teacher: name of a teacher of the run
    """

    name: str
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    teacher: str | None = None

    @property
    def label(self) -> str:
        """What metrics call the term: "cross_entropy", "probability_l2/fpn"."""
        return self.name if self.teacher is None else f"{self.name}/{self.teacher}"

    def key(self, artifact: str) -> str:
        """Name an artifact of the term's teacher, as in "fpn/logits"."""
        if self.teacher is None:
            raise ConfigError(
                f'term {self.name} compares with a teacher and names none: add teacher = "<name>"'
            )
        return f"{self.teacher}/{artifact}"

    def reads(self, labelled: bool) -> frozenset[str]:
        """Return what the term reads on such a stream: artifact keys, LABELS, or nothing."""
        raise NotImplementedError

    def whole_logits(self) -> bool:
        """Whether it looks at the teacher's logits themselves, and not at their softmax alone."""
        return False

    def value(self, output: StudentOutput, batch: Batch, stride: int) -> Tensor:
        """Return the loss, unweighted, of a batch that has all that the term reads there."""
        raise NotImplementedError


class CrossEntropyTerm(Term):
    """Labels on labelled streams; on unlabelled ones the pseudo labels of the teacher, if named.

    threshold: least confidence of a pseudo label, for raising the one of the cache without a new
        build; reads the teacher's confidence. None keeps the cache's own
    """

    name: Literal["cross_entropy"]
    threshold: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _threshold_has_a_teacher(self) -> CrossEntropyTerm:
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

    def value(self, output: StudentOutput, batch: Batch, stride: int) -> Tensor:
        """Cross entropy at the label map's size, the student's logits upsampled."""
        labels, mask = (batch.labels, None) if batch.labelled else self._pseudo(batch, stride)
        if labels is None:
            raise ArtifactError(f"stream {batch.stream!r} is labelled, its batch has no labels")
        logits = upsample_logits(output.logits, stride, (labels.shape[1], labels.shape[2]))
        return LOSSES[self.name](logits, labels, mask=mask)

    def _pseudo(self, batch: Batch, stride: int) -> tuple[Tensor, Tensor]:
        """Pseudo labels, and which to believe: teachers label a canvas' padding as well."""
        labels = _artifact(self, batch, self.key("pseudo_label"))
        height, width = labels.shape[1:]
        mask = batch.mask.repeat_interleave(stride, 2).repeat_interleave(stride, 3)
        mask = mask[:, :, :height, :width]
        if self.threshold is not None:
            confidence = _artifact(self, batch, self.key("confidence"))
            mask = mask & (upsample_logits(confidence, stride, (height, width)) >= self.threshold)
        return labels, mask


class LogitsTerm(Term):
    """A loss between the student's logits and the teacher's, on labelled streams and others."""

    def options(self) -> dict[str, Any]:
        """Return what the loss takes beside the two tensors and the mask."""
        return self.model_dump(exclude={"name", "weight", "teacher"})

    def reads(self, labelled: bool) -> frozenset[str]:
        """The teacher's logits, whatever the stream."""
        del labelled
        return frozenset({self.key("logits")})

    def value(self, output: StudentOutput, batch: Batch, stride: int) -> Tensor:
        """Compare at the student's own stride, where the batch's logits are."""
        del stride
        teacher = _artifact(self, batch, self.key("logits"))
        try:
            return LOSSES[self.name](output.logits, teacher, mask=batch.mask, **self.options())
        except ArtifactError as error:
            raise ArtifactError(f"term {self.label} on stream {batch.stream}: {error}") from error


class PixelwiseKLTerm(LogitsTerm):
    """`losses.pixelwise_kl`, with its temperature and direction."""

    name: Literal["pixelwise_kl"]
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    direction: Direction = "teacher_student"

    def whole_logits(self) -> bool:
        """At another temperature the tail's classes are not alike, and neither is a log of them."""
        return self.temperature != 1 or self.direction != "teacher_student"


class ProbabilityL2Term(LogitsTerm):
    """`losses.probability_l2`: L_p of Xie et al., there with weight 4."""

    name: Literal["probability_l2"]


class ConsistencyL2Term(LogitsTerm):
    """`losses.consistency_l2`: L_c of Xie et al.

    weight: to be given, since no default fits: the loss is in the fourth power of a logit. About
        0.4 / (8 C)^2 for C classes puts it beside the other terms; see docs/losses.md
    """

    name: Literal["consistency_l2"]
    weight: float = Field(gt=0, allow_inf_nan=False)

    def whole_logits(self) -> bool:
        """It compares logits."""
        return True


TermConfig = Annotated[
    CrossEntropyTerm | PixelwiseKLTerm | ProbabilityL2Term | ConsistencyL2Term,
    Field(discriminator="name"),
]


def _artifact(term: Term, batch: Batch, key: str) -> Tensor:
    try:
        return batch.artifacts[key]
    except KeyError:
        raise ArtifactError(
            f"term {term.label} reads {key!r}, and the batch of stream {batch.stream!r} has "
            f"{sorted(batch.artifacts) or 'no artifacts'}"
        ) from None
