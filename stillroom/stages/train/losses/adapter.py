"""What brings a student's features to the code of a teacher's: He et al.'s feature adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


class Adapter(nn.Module):
    """A trained 3x3 convolution, batch normalisation, ReLU: from the student's channels to others.

    It is trained beside the student and thrown away with the loss that needs it; each loss has its
    own.

    He et al., "Knowledge Adaptation for Efficient Semantic Segmentation", CVPR 2019, section 3.1:
    C_f of eq. 2 and C_a of eq. 4 (stride 1, padding 1); arXiv:1903.04688. The convolution has no
    bias: the normalisation takes it off again.
    """

    def __init__(self, student_channels: int, code_channels: int) -> None:
        """Draw the weights from torch's generator."""
        super().__init__()
        self.student_channels = student_channels
        self.convolution = nn.Conv2d(student_channels, code_channels, 3, padding=1, bias=False)
        self.normalisation = nn.BatchNorm2d(code_channels)

    def forward(self, student: Tensor, mask: Tensor | None = None) -> Tensor:
        """Adapt a map; what is masked out counts as 0, as do the cells around the map.

        student: (B, student_channels, H, W)
        mask: (B, 1, H, W) bool, True where a cell counts
        returns: (B, code_channels, H, W), float32 (float64 stays)
        raises: ArtifactError where the map has other channels than were announced, or is a single
            cell, whose batch has no variance
        """
        if student.ndim != 4 or student.shape[1] != self.student_channels:
            raise ArtifactError(
                f"the adapter takes a student map (B, {self.student_channels}, H, W), got "
                f"{tuple(student.shape)}"
            )
        if self.training and student[:, 0].numel() < 2:
            raise ArtifactError(
                f"the adapter normalises over the cells of a batch, and got one: "
                f"{tuple(student.shape)}; use a larger crop or batch, or a smaller stride"
            )
        with torch.autocast(student.device.type, enabled=False):
            student = student.to(torch.promote_types(student.dtype, torch.float32))
            if mask is not None:
                student = student.masked_fill(~mask, 0)
            adapted: Tensor = F.relu(self.normalisation(self.convolution(student)))
            return adapted
