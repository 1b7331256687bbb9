"""ESPNet and ESPNet-C: pyramids of dilated convolutions, of 0.36 and 0.35 million parameters.

Mehta et al., "ESPNet: Efficient Spatial Pyramid of Dilated Convolutions for Semantic Segmentation",
ECCV 2018, arXiv:1803.06815; as students in Y. Liu, "Efficient Fully Convolutional Networks for
Dense Prediction Tasks", PhD thesis, Adelaide 2021, tables 3.8 and 3.9.

| network of the thesis, 19 classes | options | M |
|---|---|---|
| ESPNet | none | 0.3635 |
| ESPNet-C | decoder = false | 0.3492 |

    [student]
    kind = "python"
    target = "espnet:espnet"          # with this folder on PYTHONPATH
    pad = 8

ESPNet-C ends where the encoder does, at stride 8; ESPNet's logits are at the frame's own pixels.
"penultimate" of both is what the encoder ends with, (B, 256, H / 8, W / 8): the last features of
ESPNet's decoder have no more channels than there are classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

DILATIONS = 1, 2, 4, 8, 16
WIDTHS = 16, 64, 128  # at strides of 2, 4 and 8
REPEATS = 2, 8  # modules at strides of 4 and 8 beside the one that halves: alpha 2 and 3


class Pyramid(nn.Module):
    """Reduce, split, transform, merge: dilated convolutions side by side, summed up step by step.

    The sums, each of a branch and those of smaller dilation, take away the grid that a dilated
    convolution leaves by itself.
    """

    def __init__(self, inner: int, outer: int, *, halve: bool = False) -> None:
        super().__init__()
        self.keeps = inner == outer and not halve
        narrow = outer // len(DILATIONS)
        widths = [outer - (len(DILATIONS) - 1) * narrow] + [narrow] * (len(DILATIONS) - 1)
        self.reduce = (
            _convolution(inner, narrow, 3, stride=2) if halve else (_convolution(inner, narrow, 1))
        )
        self.branches = nn.ModuleList(
            _convolution(narrow, width, 3, dilation=dilation)
            for width, dilation in zip(widths, DILATIONS, strict=True)
        )
        self.after = _normalised(outer)

    def forward(self, features: Tensor) -> Tensor:
        """Compute features, of half the size where it halves."""
        reduced = self.reduce(features)
        first, *rest = (branch(reduced) for branch in self.branches)
        merged, total = [first], torch.zeros_like(rest[0])
        for each in rest:
            total = total + each
            merged.append(total)
        joined = torch.cat(merged, 1)
        output: Tensor = self.after(features + joined if self.keeps else joined)
        return output


class Level(nn.Module):
    """Halves, then goes on at that size; gives both ends and the frame, shrunk, side by side."""

    def __init__(self, inner: int, outer: int, repeats: int) -> None:
        super().__init__()
        self.halve = Pyramid(inner, outer, halve=True)
        self.rest = nn.Sequential(*(Pyramid(outer, outer) for _ in range(repeats)))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Compute features of half the size: the last ones, and the first."""
        first = self.halve(features)
        return [self.rest(first), first]


class Encoder(nn.Module):
    """Three levels, each of which sees the frame again."""

    def __init__(self) -> None:
        super().__init__()
        stem, middle, deep = WIDTHS
        self.stem = nn.Sequential(_convolution(3, stem, 3, stride=2), _normalised(stem))
        self.seen = nn.ModuleList(_normalised(width) for width in (stem + 3, 2 * middle + 3))
        self.middle = Level(stem + 3, middle, REPEATS[0])
        self.deep = Level(2 * middle + 3, deep, REPEATS[1])
        self.end = _normalised(2 * deep)

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        """Compute features at strides of 2, 4 and 8: 19, 131 and 256 channels."""
        half = _shrunk(images)
        first = self.seen[0](torch.cat([self.stem(images), half], 1))
        second = self.seen[1](torch.cat([*self.middle(first), _shrunk(half)], 1))
        return first, second, self.end(torch.cat(self.deep(second), 1))


class Decoder(nn.Module):
    """Doubles the classes' maps, and merges them with those of the level that they come to."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        stem, middle = WIDTHS[0] + 3, 2 * WIDTHS[1] + 3
        self.of_deep = nn.Sequential(nn.BatchNorm2d(classes), _doubling(classes))
        self.of_middle = _convolution(middle, classes, 1)
        self.merge = nn.Sequential(_normalised(2 * classes), Pyramid(2 * classes, classes))
        self.up = nn.Sequential(_doubling(classes), _normalised(classes))
        self.join = nn.Sequential(_convolution(stem + classes, classes, 3), _normalised(classes))
        self.classifier = _doubling(classes)

    def forward(self, first: Tensor, second: Tensor, maps: Tensor) -> Tensor:
        """Compute logits of features at strides of 2 and 4, and of the classes' maps at 8."""
        merged = self.merge(torch.cat([self.of_middle(second), self.of_deep(maps)], 1))
        logits: Tensor = self.classifier(self.join(torch.cat([self.up(merged), first], 1)))
        return logits


class ESPNet(nn.Module):
    """Encoder, classifier, and a decoder of what it says."""

    def __init__(self, num_classes: int, *, decoder: bool) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.classifier = _convolution(2 * WIDTHS[-1], num_classes, 1)
        self.decoder = Decoder(num_classes) if decoder else None

    def forward(self, images: Tensor) -> dict[str, Tensor | dict[str, Tensor]]:
        """Compute logits, and "stage1" to "stage3" and "penultimate" of images (B, 3, H, W)."""
        first, second, third = self.encoder(images)
        maps = self.classifier(third)
        logits = maps if self.decoder is None else self.decoder(first, second, maps)
        stages = {"stage1": first, "stage2": second, "stage3": third}
        return {"logits": logits, "features": {**stages, "penultimate": third}}


def espnet(num_classes: int, decoder: bool = True) -> ESPNet:
    """Build one; without its decoder it is ESPNet-C."""
    return ESPNet(num_classes, decoder=decoder)


def _shrunk(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 3, stride=2, padding=1)


def _convolution(
    inner: int, outer: int, side: int, *, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    padding = dilation * (side // 2)
    return nn.Conv2d(inner, outer, side, stride, padding, dilation, bias=False)


def _normalised(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))


def _doubling(classes: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(classes, classes, 2, 2, bias=False)
