"""Terms between a layer of the student and the code of a layer of the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from stillroom.stages.train.loss_parts.downsample import downsample_by_means
from stillroom.stages.train.terms.feature_term import FeatureTerm
from stillroom.stages.train.terms.term import TermInput, TermState
from stillroom.storage_specs.artifacts import CODE
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from stillroom.stages.train.terms.term import Sizes


class CodeTerm(FeatureTerm):
    """A loss between the student's adapted features and the code that `cache adapt` made.

    Compared on the code's own grid where the student's is finer by a whole factor: its features
    are averaged to that grid, then adapted. Where the student's grid is the coarser one, or the
    factor is not whole, they are compared on the student's, and the view brings the code there. A
    position counts where its centre shows the frame.

    teacher_layer: the code's, as it is named after "code/": the layer, or [adapt.<teacher>].name
    """

    @property
    def artifact(self) -> str:
        return f"{CODE}/{self.teacher_layer}"

    def stride(self, strides: Mapping[str, int], cached: Mapping[str, int]) -> int:
        own = strides[self.grid]
        code = cached.get(self.key(self.artifact), own)
        return own if code % own else code

    def state(self, sizes: Sizes) -> TermState:
        student = sizes.channels(self, self.grid)
        return CodeAdapter(student, sizes.teacher_channels(self, self.artifact))

    def adapted(self, given: TermInput) -> Tensor:
        """Return the student's features on the code's grid and in its channels, (B, A', h, w)."""
        height, width = given.batch.images.shape[2:]
        if 2 * min(height, width) <= given.stride:  # every position would be masked out
            raise ConfigError(
                f"term {self.label} compares on cells of {given.stride} pixels, and no centre of "
                f"one lies in a crop of {height} x {width}: use a larger train.view.crop, or a "
                f"code made with smaller strides in [adapt.{self.teacher}]"
            )
        features = downsample_by_means(
            given.features, given.stride // given.student.strides[self.grid]
        )
        adapted: Tensor = given.kept(CodeAdapter)(features, given.mask)
        return adapted


class CodeAdapter(TermState):
    """A trained 3x3 convolution, batch normalisation and ReLU, to the channels of a code.

    It is trained beside the student and thrown away with the loss that needs it; each loss has its
    own.

    He et al., "Knowledge Adaptation for Efficient Semantic Segmentation", CVPR 2019, section 3.1:
    C_f of eq. 2 and C_a of eq. 4 (stride 1, padding 1); arXiv:1903.04688. The convolution has no
    bias: the normalisation takes it off again.
    """

    def __init__(self, student_channels: int, code_channels: int) -> None:
        super().__init__()
        self.student_channels = student_channels
        self.adapter = nn.ModuleDict(
            {
                "convolution": nn.Conv2d(student_channels, code_channels, 3, padding=1, bias=False),
                "normalisation": nn.BatchNorm2d(code_channels),
            }
        )

    def forward(self, student: Tensor, mask: Tensor | None = None) -> Tensor:
        """Adapt a map; what is masked out counts as 0, as do the positions around the map.

        Args:
            student: (B, student_channels, H, W)
            mask: (B, 1, H, W) bool, True where a position counts

        Returns:
            (B, code_channels, H, W), float32 (float64 stays)

        Raises:
            ArtifactError: where the map has other channels than were announced, or is a single
                position, whose batch has no variance
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
            convolved = self.adapter["convolution"](student)
            return F.relu(self.adapter["normalisation"](convolved))
