"""MGD's term: the teacher's features, generated from what is left of the student's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import nn

from stillroom.stages.train.losses import LOSSES
from stillroom.stages.train.losses.masked_generative import draw_keep
from stillroom.stages.train.losses.projector import Projector
from stillroom.stages.train.terms.features import FeatureTerm
from stillroom.stages.train.terms.term import Seen, Sizes, TermState
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


class MaskedGenerativeTerm(FeatureTerm):
    """`losses.masked_generative`.

    weight: to be given, since no default fits: the loss is in the unit of the teacher's features,
        squared. The paper's 2e-5 is 2e-5 A h w here; see docs/losses/masked_generative.md
    ratio: share of positions that are hidden, drawn anew at every step
    """

    name: Literal["masked_generative"]
    weight: float = Field(gt=0, allow_inf_nan=False)
    ratio: float = Field(default=0.75, ge=0, lt=1)

    def state(self, sizes: Sizes) -> MaskedGeneration:
        """Make the alignment and the generation block."""
        return MaskedGeneration(
            sizes.channels(self, self.grid), sizes.teacher_channels(self, self.artifact)
        )

    def value(self, seen: Seen) -> Tensor:
        """Align, hide, generate and compare, on the grid of the student's layer."""
        if not isinstance(seen.state, MaskedGeneration):
            raise TypeError(f"term {self.label} generates features, got {seen.state!r}")
        student = seen.state.align(seen.features, seen.mask)
        try:
            return LOSSES[self.name](
                student,
                seen.artifact(self.artifact),
                generate=seen.state.generate,
                keep=draw_keep(student, self.ratio),
                mask=seen.mask,
            )
        except ArtifactError as error:
            raise ArtifactError(
                f"term {self.label} on stream {seen.batch.stream}: {error}"
            ) from error


class MaskedGeneration(TermState):
    """A 1x1 convolution to the teacher's channels, where needed, and two 3x3 ones that generate."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.project = Projector(student_channels, teacher_channels, only_where_needed=True)
        self.generate = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
        )

    def align(self, features: Tensor, mask: Tensor) -> Tensor:
        """(B, A, h, w) to the teacher's channels, float32.

        Masked cells are 0 before the weights see them: what they hold would reach the weights'
        gradient even where the loss ignores the result.
        """
        with torch.autocast(features.device.type, enabled=False):
            aligned: Tensor = self.project(features.float().masked_fill(~mask, 0))
        return aligned
