"""The bare MobileNetV2 students of knowledge adaptation: no ASPP and no decoder.

He et al., "Knowledge Adaptation for Efficient Semantic Segmentation", CVPR 2019, tables 1 and 2,
after Sandler et al., "MobileNetV2", CVPR 2018, section 6.3: the last 1x1 convolution of the encoder
is left out, and the head is image pooling beside one convolution.

| network of the paper, 21 classes | options | M |
|---|---|---|
| MobileNetV2-16s, -1.0 | none | 2.11 |
| MobileNetV2-8s | output_stride = 8 | 2.11 |
| MobileNetV2-1.3 | width = 1.3 | 3.38 |
| MobileNetV2-1.4 | encoder = "mobilenetv2_140" | 3.88 |

    [student]
    kind = "python"
    target = "mobilenet_v2:mobilenet_v2"      # with this folder on PYTHONPATH
    options = { encoder_weights = "mobilenetv2_100.safetensors" }
    pad = 16
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from stillroom.stages.models.tensor_file import read_tensors
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.models.weights import fit_encoder

import_torchvision()
import timm  # noqa: E402  (where torchvision's operators are missing, this must come second)

CHANNELS = 256


class BareSegmenter(nn.Module):
    """Encoder, image pooling, classifier."""

    def __init__(self, encoder: nn.Module, inner: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooled = nn.Sequential(*_block(inner, CHANNELS))
        self.local = nn.Sequential(*_block(inner, CHANNELS))
        self.projection = nn.Sequential(*_block(2 * CHANNELS, CHANNELS), nn.Dropout(0.1))
        self.classifier = nn.Conv2d(CHANNELS, num_classes, 1)

    @property
    def classifier_weight(self) -> Tensor:
        """(C, A), for the terms that read it."""
        return self.classifier.weight.flatten(1)

    def forward(self, images: Tensor) -> dict[str, Tensor | dict[str, Tensor]]:
        """Compute logits, "penultimate", and "stage1" to "stage5" of images (B, 3, H, W)."""
        stages = self.encoder(images)
        deepest = stages[-1]
        everywhere = self.pooled(deepest.mean((2, 3), keepdim=True)).expand(
            -1, -1, *deepest.shape[2:]
        )
        penultimate = self.projection(torch.cat([everywhere, self.local(deepest)], 1))
        layers = {f"stage{place}": stage for place, stage in enumerate(stages, 1)}
        logits = self.classifier(penultimate)
        return {"logits": logits, "features": {**layers, "penultimate": penultimate}}


def mobilenet_v2(
    num_classes: int,
    encoder: str = "mobilenetv2_100",
    output_stride: int = 16,
    width: float | None = None,
    encoder_weights: str | None = None,
) -> BareSegmenter:
    """Build one.

    Args:
        encoder: a MobileNetV2 of timm
        output_stride: pixels to one position of the logits, 8, 16 or 32
        width: takes one of so many times its channels instead
        encoder_weights: a local file with timm's names
    """
    dilated = {"features_only": True, "output_stride": output_stride}
    if width is None:
        body = timm.create_model(encoder, **dilated)
    else:  # timm has names for a few widths
        body = timm.models.efficientnet._gen_mobilenet_v2("mobilenetv2_100", width, **dilated)
    if encoder_weights is not None:
        fit_encoder(body, read_tensors(Path(encoder_weights)), Path(encoder_weights))
    return BareSegmenter(body, body.feature_info.channels()[-1], num_classes)


def _block(inner: int, outer: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inner, outer, 1, bias=False)
    return [convolution, nn.BatchNorm2d(outer), nn.ReLU(inplace=True)]
