"""Terms against what a frame is labelled with beside its classes, or what a teacher says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stillroom.stages.train.terms.term import Term
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.artifacts import DEPTH

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput


class TargetTerm(Term):
    """A loss against the frames' own target; against the teacher's output where one is named.

    The target is compared at its own pixels, to which the student's grid is upsampled; a teacher's
    output on the student's grid.
    """

    target: ClassVar[str]
    """Its name, and the name of the artifact."""

    def reads(self, labelled: bool) -> frozenset[str]:
        if self.teacher is not None:
            return frozenset({self.key(self.target)})
        return frozenset({self.target} if labelled else ())

    def known(self, given: TermInput) -> Tensor:
        """Return what to learn, (B, C, H, W) or (B, C, h, w)."""
        return given.target(self.target) if self.teacher is None else given.artifact(self.target)

    def counted(self, given: TermInput) -> Tensor | None:
        """Return where it counts, beside where it is: a target is nowhere but on its frame."""
        return None if self.teacher is None else given.mask

    def brought(self, given: TermInput, known: Tensor) -> Tensor:
        """Return the student's grid at the size of what it is to learn."""
        if self.teacher is not None:
            return given.features
        return upsample_logits(given.features, given.stride, (known.shape[2], known.shape[3]))


class DepthTerm(TargetTerm):
    """A loss against depth."""

    target = DEPTH
