"""Terms between the student's logits and the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat, model_validator

from stillroom.stages.train.losses import LOSSES
from stillroom.stages.train.losses.mean_of_teachers import mean_of_teachers
from stillroom.stages.train.losses.pixelwise_kl import Direction
from stillroom.stages.train.terms.term import Seen, Term
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


class LogitsTerm(Term):
    """A loss between the student's logits and the teacher's, on labelled streams and others."""

    def options(self) -> dict[str, Any]:
        """Return what the loss takes beside the two tensors and the mask."""
        return self.model_dump(exclude={"name", "weight", "teacher", "mean_of"})

    def reads(self, labelled: bool) -> frozenset[str]:
        """The teacher's logits, whatever the stream."""
        del labelled
        return frozenset({self.key(LOGITS)})

    def target(self, seen: Seen) -> Tensor:
        """(B, C, h, w): the logits to learn from."""
        return seen.artifact(LOGITS)

    def value(self, seen: Seen) -> Tensor:
        """Compare at the student's own stride, where the batch's logits are."""
        try:
            return LOSSES[self.name](
                seen.output.logits, self.target(seen), mask=seen.mask, **self.options()
            )
        except ArtifactError as error:
            raise ArtifactError(
                f"term {self.label} on stream {seen.batch.stream}: {error}"
            ) from error


class EnsembleTerm(LogitsTerm):
    """A loss on the softmax of the logits, which may be that of several teachers together.

    mean_of: in place of `teacher`: weights by teacher; learns from the weighted mean of their
        probabilities. For a weight a teacher, and losses that add up, use a term for each
    """

    mean_of: dict[str, PositiveFloat] | None = Field(default=None, min_length=2)

    @model_validator(mode="after")
    def _teachers_are_named_once(self) -> EnsembleTerm:
        if self.mean_of is not None and self.teacher is not None:
            raise ValueError("give either teacher or mean_of, and not both")
        return self

    @property
    def teachers(self) -> tuple[str, ...]:
        """One, or those of the mean."""
        return super().teachers if self.mean_of is None else tuple(self.mean_of)

    def reads(self, labelled: bool) -> frozenset[str]:
        """The logits of every teacher, whatever the stream."""
        if self.mean_of is None:
            return super().reads(labelled)
        return frozenset(self.key(LOGITS, teacher) for teacher in self.mean_of)

    def target(self, seen: Seen) -> Tensor:
        """(B, C, h, w): the teacher's logits, or the log of the mean probabilities."""
        if self.mean_of is None:
            return super().target(seen)
        weights = list(self.mean_of.values())
        return mean_of_teachers([seen.artifact(LOGITS, one) for one in self.mean_of], weights)


class PixelwiseKLTerm(EnsembleTerm):
    """`losses.pixelwise_kl`, with its temperature and direction; perhaps of standardised logits."""

    name: Literal["pixelwise_kl"]
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    direction: Direction = "teacher_student"
    standardise: bool = False

    def whole_logits(self) -> bool:
        """At another temperature the tail's classes are not alike, and neither is a log of them."""
        usual = self.temperature == 1 and self.direction == "teacher_student"
        return self.standardise or not usual


class ProbabilityL2Term(EnsembleTerm):
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
