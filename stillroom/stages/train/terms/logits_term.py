"""Terms between the student's logits and the teacher's, or those of several teachers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, model_validator

from stillroom.stages.train.terms.term import Term
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


class LogitsTerm(Term):
    """A loss between the student's logits and the teacher's, at the student's own stride."""

    def reads(self, labelled: bool) -> frozenset[str]:
        return frozenset({self.key(LOGITS)})

    def target(self, given: TermInput) -> Tensor:
        """Return the logits to learn from, (B, C, h, w)."""
        return given.artifact(LOGITS)

    def whole_logits(self) -> bool:
        return True  # a loss that reads no more than their softmax states so


class EnsembleTerm(LogitsTerm):
    """A loss on the softmax of the logits, which may be that of several teachers together.

    Attributes:
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
        return super().teachers if self.mean_of is None else tuple(self.mean_of)

    def reads(self, labelled: bool) -> frozenset[str]:
        if self.mean_of is None:
            return super().reads(labelled)
        return frozenset(self.key(LOGITS, teacher) for teacher in self.mean_of)

    def target(self, given: TermInput) -> Tensor:
        if self.mean_of is None:
            return super().target(given)
        weights = list(self.mean_of.values())
        return mean_of_teachers([given.artifact(LOGITS, one) for one in self.mean_of], weights)


def mean_of_teachers(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return logits whose softmax is the weighted mean of the teachers' probabilities.

    z_c = log sum_k w_k softmax(z_k)_c,  weights w scaled to sum to 1

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2: the arithmetic
    mean of an ensemble's distributions. arXiv:1503.02531

    Args:
        logits: one (B, C, h, w) a teacher, all of one shape
        weights: one a teacher, above 0

    Returns:
        (B, C, h, w) log-probabilities, float32 (float64 stays). Their softmax is the mean at
        temperature 1; a loss with temperature T softens the mean, and does not average what is
        softened
    """
    if len({tuple(one.shape) for one in logits}) != 1 or len(logits) != len(weights):
        shapes = ", ".join(str(tuple(one.shape)) for one in logits)
        raise ArtifactError(
            f"teachers to average must have logits of one shape and a weight each, got {shapes} "
            f"with {len(weights)} weights"
        )
    dtype = torch.promote_types(logits[0].dtype, torch.float32)
    total = sum(weights)
    shares = [
        F.log_softmax(one.detach().to(dtype), dim=1) + math.log(weight / total)
        for one, weight in zip(logits, weights, strict=True)
    ]
    return torch.stack(shares).logsumexp(dim=0)
