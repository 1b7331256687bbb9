"""The term between the places of a frame and those of its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from stillroom.stages.train.losses.pairwise_frame import pairwise_frame
from stillroom.stages.train.reads import MOTION
from stillroom.stages.train.terms.term import Seen, Term
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


class PairwiseFrameTerm(Term):
    """`losses.pairwise_frame` over all pairs of the batch; it needs triplets, and no flow.

    of: "probabilities", the paper's, or "logits"
    patch: cells a side of a place; memory does not grow with the pairs of places, so that 1 is
        bounded as well
    """

    name: Literal["pairwise_frame"]
    weight: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    of: Literal["probabilities", "logits"] = "probabilities"
    patch: PositiveInt = 1

    def reads(self, labelled: bool) -> frozenset[str]:
        """Triplets, and the teacher's logits of all their frames."""
        del labelled
        return frozenset({self.key(LOGITS), MOTION})

    def whole_logits(self) -> bool:
        """Their softmax is enough for probabilities."""
        return self.of == "logits"

    def value(self, seen: Seen) -> Tensor:
        """Compare how both networks relate every frame to its partner."""
        sides = seen.neighbours.pairs.unbind(1)
        student, teacher, mask = seen.output.logits, seen.artifact(LOGITS), seen.mask
        try:
            return pairwise_frame(
                [student[side] for side in sides],
                [teacher[side] for side in sides],
                of=self.of,
                patch=self.patch,
                mask=[mask[side] for side in sides],
            )
        except ArtifactError as error:
            raise ArtifactError(
                f"term {self.label} on stream {seen.batch.stream}: {error}"
            ) from error
