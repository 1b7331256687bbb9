"""RAFT-small's encoder: bottleneck blocks down to an eighth of the frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class SmallEncoder(nn.Module):
    """Frames to features at stride 8, with the names of the original checkpoint.

    outputs: channels of the features
    instance_norm: after every convolution but the last; it has no parameters of its own
    """

    def __init__(self, outputs: int, *, instance_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, stride=2, padding=3)
        self.norm1 = norm(32, instance_norm)
        self.layer1 = _layer(32, 32, 1, instance_norm)
        self.layer2 = _layer(32, 64, 2, instance_norm)
        self.layer3 = _layer(64, 96, 2, instance_norm)
        self.conv2 = nn.Conv2d(96, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in -1..1; returns (B, outputs, H / 8, W / 8)."""
        x = F.relu(self.norm1(self.conv1(images)))
        features: Tensor = self.conv2(self.layer3(self.layer2(self.layer1(x))))
        return features


class Bottleneck(nn.Module):
    """Three convolutions through a quarter of the channels, and the input added."""

    def __init__(self, inputs: int, outputs: int, stride: int, instance_norm: bool) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1 = nn.Conv2d(inputs, inner, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1)
        self.conv3 = nn.Conv2d(inner, outputs, 1)
        self.norm1 = norm(inner, instance_norm)
        self.norm2 = norm(inner, instance_norm)
        self.norm3 = norm(outputs, instance_norm)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride), norm(outputs, instance_norm)
            )

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs, h, w); returns (B, outputs, h / stride, w / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = F.relu(self.norm3(self.conv3(y)))
        return F.relu(self.downsample(x) + y)


def norm(channels: int, instance_norm: bool) -> nn.Module:
    """Instance normalisation without parameters, or nothing."""
    return nn.InstanceNorm2d(channels) if instance_norm else nn.Identity()


def _layer(inputs: int, outputs: int, stride: int, instance_norm: bool) -> nn.Sequential:
    return nn.Sequential(
        Bottleneck(inputs, outputs, stride, instance_norm),
        Bottleneck(outputs, outputs, 1, instance_norm),
    )
