"""Cross entropy of a second classifier on one of the student's inner layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import nn

from stillroom.stages.across_ranks import ALL
from stillroom.stages.train.losses.cross_entropy import LabelTerm, WeightedClasses
from stillroom.stages.train.terms.term import Positive
from stillroom.storage_specs.artifacts import FEATURES

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.across_ranks import Rows
    from stillroom.stages.train.terms.term import Sizes, TermInput, TermState


class AuxiliaryCrossEntropyTerm(LabelTerm):
    """`cross_entropy` of a second classifier on one of the student's inner layers.

    The classifier trains with the student and is left out of what is exported, as PSPNet's
    auxiliary head is: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, section 3.3, there
    with weight 0.4. arXiv:1612.01105

    Attributes:
        layer: a feature layer of the student, as "stage4"
    """

    name: Literal["auxiliary_cross_entropy"]
    weight: Positive = 0.4
    layer: str = "stage4"

    @property
    def grid(self) -> str:
        return f"{FEATURES}/{self.layer}"

    def state(self, sizes: Sizes) -> TermState:
        channels = sizes.channels(self, self.grid)
        return AuxiliaryHead(channels, sizes.classes, self.weights(sizes))

    def value(self, given: TermInput) -> Tensor:
        return self.of_logits(given, given.kept(AuxiliaryHead)(given.features, given.batch.rows))


class AuxiliaryHead(WeightedClasses):
    """Two convolutions from features (B, A, h, w) to logits (B, C, h, w)."""

    def __init__(self, channels: int, classes: int, class_weights: Tensor | None = None) -> None:
        super().__init__(class_weights)
        inner = max(channels // 4, classes)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(inner, classes, 1),
        )

    def forward(self, features: Tensor, rows: Rows = ALL) -> Tensor:
        """Compute logits; the student's features may be float16, and losses are in float32.

        Args:
            rows: which frames of the batch of all ranks these are, for dropout
        """
        x = features.to(next(self.parameters()).dtype)
        for layer in self.layers:
            if self.training and isinstance(layer, nn.Dropout):
                x = rows.dropout(x, layer.p)
            else:
                x = layer(x)
        return x
