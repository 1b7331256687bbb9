"""Terms of the student's weights alone: regularisers, which read nothing of any stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import model_validator

from stillroom.stages.train.terms.term import Term

if TYPE_CHECKING:
    from torch import Tensor, nn


class WeightTerm(Term):
    """A term that is in the loss once a step, whatever the streams and their weights are."""

    @model_validator(mode="after")
    def _has_no_teacher(self) -> WeightTerm:
        if self.teacher is not None:
            raise ValueError("teacher: the term is of the student's weights, and reads no teacher")
        return self

    @property
    def task(self) -> str | None:
        return None

    def reads(self, labelled: bool) -> frozenset[str]:
        return frozenset()

    def penalty(self, network: nn.Module) -> Tensor:
        """Return the loss, unweighted, of the student's bare network: () float32.

        Raises:
            ConfigError: the network has no weights of the kind.
        """
        raise NotImplementedError
