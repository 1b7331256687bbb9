"""DIST's term: correlations between class probabilities."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stillroom.stages.train.terms.logits import EnsembleTerm


class DistTerm(EnsembleTerm):
    """`losses.dist`."""

    name: Literal["dist"]
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    beta: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    gamma: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    epsilon: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _there_is_a_part(self) -> DistTerm:
        if self.beta + self.gamma == 0:
            raise ValueError("one of beta and gamma must be above 0")
        return self

    def whole_logits(self) -> bool:
        """A class that is unlikely everywhere counts as much as any: the tail must be there."""
        return True
