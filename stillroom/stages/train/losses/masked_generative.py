"""MGD: the teacher's features, generated from what is left of the student's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import nn

from stillroom.stages.across_ranks import ALL
from stillroom.stages.train.loss_parts.masks import demand_mask, masked_mean, matched
from stillroom.stages.train.loss_parts.projector import Projector
from stillroom.stages.train.terms.feature_term import FeatureTerm
from stillroom.stages.train.terms.term import Positive, TermState
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from stillroom.stages.across_ranks import Rows
    from stillroom.stages.train.terms.term import Sizes, TermInput


def masked_generative(
    student: Tensor,
    teacher: Tensor,
    *,
    generate: Callable[[Tensor], Tensor],
    keep: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Generate the teacher's features from a part of the student's positions, and compare.

    loss = mean_i mean_a (g_a(k * s)_i - t_ai)^2

    Yang et al., "Masked Generative Distillation", ECCV 2022, section 3; arXiv:2205.01529. Their
    weight w (2e-5 for segmentation), of a sum, is w A H W here.

    Args:
        student: (B, A, H, W) features s, brought to the teacher's channels
        teacher: (B, A, H, W) features t
        generate: g, from (B, A, H, W) to the same
        keep: (B, 1, H, W) bool k, True where the student's features reach g; `draw_keep` makes one
        mask: (B, 1, H, W) bool, True where a position counts; one that does not is 0 to g, as a
            position that was not kept

    Returns:
        () mean over the counted positions and the channels, kept or not; in squared feature
        units
    """
    student, teacher = matched(student, teacher, mask)
    demand_mask(keep, student, "keep")
    with torch.autocast(student.device.type, enabled=False):
        generated = generate(student.masked_fill(~keep, 0))
    if generated.shape != teacher.shape:
        raise ArtifactError(
            f"generate made {tuple(generated.shape)} of {tuple(student.shape)}; expected "
            f"{tuple(teacher.shape)}"
        )
    return masked_mean((generated - teacher).square().mean(dim=1), mask)


def draw_keep(like: Tensor, ratio: float, rows: Rows = ALL) -> Tensor:
    """Keep each position with probability 1 - ratio, by torch's global generator.

    Args:
        like: (B, A, H, W) features
        rows: which frames of the batch of all ranks these are

    Returns:
        (B, 1, H, W) bool
    """
    batch, _, height, width = like.shape
    return rows.rand((batch, 1, height, width), device=like.device) >= ratio


class MaskedGenerativeTerm(FeatureTerm):
    """`masked_generative`.

    Attributes:
        weight: to be given, since no default fits: the loss is in the unit of the teacher's
            features, squared. The paper's 2e-5 is 2e-5 A h w here; see
            docs/losses/masked_generative.md
        ratio: share of positions that are hidden, drawn anew at every step
    """

    name: Literal["masked_generative"]
    weight: Positive
    ratio: float = Field(default=0.75, ge=0, lt=1)

    def state(self, sizes: Sizes) -> MaskedGeneration:
        return MaskedGeneration(
            sizes.channels(self, self.grid), sizes.teacher_channels(self, self.artifact)
        )

    def value(self, given: TermInput) -> Tensor:
        state = given.kept(MaskedGeneration)
        student = state.align(given.features, given.mask)
        return masked_generative(
            student,
            self.target(given),
            generate=state.generate,
            keep=draw_keep(student, self.ratio, given.batch.rows),
            mask=given.mask,
        )


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
        """Bring (B, A, h, w) to the teacher's channels, float32.

        Masked positions are 0 before the weights see them: their values would reach the weights'
        gradient even where the loss ignores the result.
        """
        with torch.autocast(features.device.type, enabled=False):
            aligned: Tensor = self.project(features.float().masked_fill(~mask, 0))
        return aligned
