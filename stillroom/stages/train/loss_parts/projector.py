"""The 1x1 convolution that brings a student's map to as many channels as the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor


class Projector(nn.Module):
    """A trained 1x1 convolution from the student's channels to the teacher's.

    out = W z + b at each position;  W (teacher, student), b (teacher): drawn from torch's generator

    It is trained beside the student, and thrown away with the loss that needs it. The losses are
    functions without parameters, so that the projector is outside of them:
    `fitnet(projector(student), teacher)`.

    student: (B, student_channels, H, W) -> (B, teacher_channels, H, W)

    The regressor of Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, section 2.2;
    arXiv:1412.6550. There it may be a wider convolution; 1x1 is what dense prediction uses.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        only_where_needed: bool = False,
        bias: bool = True,
    ) -> None:
        """Draw the weights.

        Args:
            only_where_needed: no convolution where the channel counts agree: the map goes through
                untouched, and there is nothing to train
            bias: whether there is b; a loss that a constant per channel does not change wants none

        Raises:
            ConfigError: where a channel count is below 1
        """
        super().__init__()
        if min(student_channels, teacher_channels) < 1:
            raise ConfigError(
                "a projector needs at least 1 channel on each side, got "
                f"{student_channels} of the student and {teacher_channels} of the teacher"
            )
        self.student_channels = student_channels
        self.teacher_channels = teacher_channels
        self.convolution: nn.Module
        if only_where_needed and student_channels == teacher_channels:
            self.convolution = nn.Identity()
        else:
            self.convolution = nn.Conv2d(student_channels, teacher_channels, 1, bias=bias)

    def forward(self, student: Tensor) -> Tensor:
        """Bring a map to the teacher's channels.

        Raises:
            ArtifactError: where the map has other channels than were announced
        """
        if student.ndim != 4 or student.shape[1] != self.student_channels:
            raise ArtifactError(
                f"the projector takes a student map (B, {self.student_channels}, H, W), got "
                f"{tuple(student.shape)}"
            )
        if isinstance(self.convolution, nn.Conv2d):
            # Terms are computed outside of autocast, from what it left in half precision.
            student = student.to(self.convolution.weight.dtype)
        projected: Tensor = self.convolution(student)
        return projected
