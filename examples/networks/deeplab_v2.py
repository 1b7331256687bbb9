"""DeepLab-v2: a dilated encoder, and four dilated classifiers whose logits are added up.

Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution,
and Fully Connected CRFs", TPAMI 2018, section 3.2, arXiv:1606.00915; with ResNet-101 as teacher and
MobileNet (Howard et al., 2017, arXiv:1704.04861) as students in Xie et al., "Improving Fast
Segmentation With Teacher-student Learning", BMVC 2018, tables 1 to 4.

| network of the paper | options | encoder's M |
|---|---|---|
| ResNet-101 | none | 42.5 |
| MobileNet-1.0 | encoder = "mobilenetv1_100" | 3.2 |
| MobileNet-0.75 | width = 0.75 | 1.8 |
| MobileNet-0.5 | width = 0.5 | 0.8 |

    [student]
    kind = "python"
    target = "deeplab_v2:deeplab_v2"      # with this folder on PYTHONPATH
    options = { encoder = "mobilenetv1_100", encoder_weights = "mobilenetv1_100.safetensors" }
    pad = 8

A teacher of kind "python" takes `options.num_classes` as well.
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

RATES = 6, 12, 18, 24


class DeepLabV2(nn.Module):
    """Encoder and classifiers; "penultimate" is what the encoder ends with."""

    def __init__(self, encoder: nn.Module, inner: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifiers = nn.ModuleList(
            nn.Conv2d(inner, num_classes, 3, padding=rate, dilation=rate) for rate in RATES
        )

    def forward(self, images: Tensor) -> dict[str, Tensor | dict[str, Tensor]]:
        """Compute logits, "penultimate", and "stage1" to "stage5" of images (B, 3, H, W)."""
        stages = self.encoder(images)
        deepest = stages[-1]
        logits = torch.stack([classifier(deepest) for classifier in self.classifiers]).sum(0)
        layers = {f"stage{place}": stage for place, stage in enumerate(stages, 1)}
        return {"logits": logits, "features": {**layers, "penultimate": deepest}}


def deeplab_v2(
    num_classes: int,
    encoder: str = "resnet101",
    width: float | None = None,
    encoder_weights: str | None = None,
) -> DeepLabV2:
    """Build one, of stride 8.

    Args:
        encoder: a ResNet or MobileNet of timm
        width: takes a MobileNet of so many times its channels instead
        encoder_weights: a local file with timm's names
    """
    dilated = {"features_only": True, "output_stride": 8}
    if width is None:
        body = timm.create_model(encoder, **dilated)
    else:  # timm has names for whole MobileNets alone
        body = timm.models.efficientnet._gen_mobilenet_v1("mobilenetv1_100", width, **dilated)
    if encoder_weights is not None:
        fit_encoder(body, read_tensors(Path(encoder_weights)), Path(encoder_weights))
    return DeepLabV2(body, body.feature_info.channels()[-1], num_classes)
