"""The PSPNets of structured and channel-wise distillation: dilated to stride 8, a head of 3x3.

Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017; as teacher and students in Y. Liu,
"Efficient Fully Convolutional Networks for Dense Prediction Tasks", PhD thesis, Adelaide 2021,
table 3.8. SMP's PSPNet of such encoders has 48.9 M and 12.1 M: its head is a convolution of 1x1.

| network of the thesis, 19 classes | options | M |
|---|---|---|
| PSPNet, teacher | none | 65.7, and 4.7 of its auxiliary head, in training alone: 70.4 |
| ResNet18 (1.0) | encoder = "resnet18", channels = 256 | 15.2 |
| ResNet18 (0.5) | encoder = "resnet18", channels = 128, widths = [32, 64, 128, 256] | 3.83 |

    [student]
    kind = "python"
    target = "pspnet:pspnet"          # with this folder on PYTHONPATH
    options = { encoder = "resnet18", channels = 256, encoder_weights = "resnet18.safetensors" }
    pad = 8

A teacher of kind "python" takes `options.num_classes` as well. The auxiliary head is the term
`auxiliary_cross_entropy` on "stage4".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.stages.models.tensor_file import read_tensors
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.models.weights import fit_encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

import_torchvision()
import timm  # noqa: E402  (where torchvision's operators are missing, this must come second)

BINS = 1, 2, 3, 6  # of the pyramid: cells a side


class PSPNet(nn.Module):
    """Encoder, pyramid, classifier: features of every stage, and logits at stride 8."""

    def __init__(self, encoder: nn.Module, inner: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.priors = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), *_block(inner, channels, 1)) for size in BINS
        )
        joined = inner + len(BINS) * channels
        self.bottleneck = nn.Sequential(*_block(joined, channels, 3), nn.Dropout2d(0.1))
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    @property
    def classifier_weight(self) -> Tensor:
        """(C, A), for the terms that read it."""
        return self.classifier.weight.flatten(1)

    def forward(self, images: Tensor) -> dict[str, Tensor | dict[str, Tensor]]:
        """Compute logits, "penultimate", and "stage1" to "stage5" of images (B, 3, H, W)."""
        stages = self.encoder(images)
        deepest = stages[-1]
        size = deepest.shape[2:]
        pooled = [F.interpolate(prior(deepest), size, mode="bilinear") for prior in self.priors]
        penultimate = self.bottleneck(torch.cat([*pooled, deepest], 1))
        layers = {f"stage{place}": stage for place, stage in enumerate(stages, 1)}
        logits = self.classifier(penultimate)
        return {"logits": logits, "features": {**layers, "penultimate": penultimate}}


def pspnet(
    num_classes: int,
    encoder: str = "resnet101s",
    channels: int = 512,
    widths: Sequence[int] | None = None,
    encoder_weights: str | None = None,
) -> PSPNet:
    """Build one.

    Args:
        encoder: a ResNet of timm; "resnet101s" has the deep stem of the papers' code
        channels: of each prior of the pyramid, and of the features that are classified
        widths: channels of the encoder's four stages, its own if left out
        encoder_weights: a local file with timm's names
    """
    options = {} if widths is None else {"channels": tuple(widths)}
    body = timm.create_model(encoder, features_only=True, output_stride=8, **options)
    if encoder_weights is not None:
        fit_encoder(body, read_tensors(Path(encoder_weights)), Path(encoder_weights))
    return PSPNet(body, body.feature_info.channels()[-1], channels, num_classes)


def _block(inner: int, outer: int, side: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inner, outer, side, padding=side // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outer), nn.ReLU(inplace=True)]
