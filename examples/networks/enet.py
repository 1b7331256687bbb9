"""ENet: bottlenecks of 0.36 million parameters, most of them at stride 8.

Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation", 2016,
arXiv:1606.02147, table 1 and section 3: 0.37 M there, 0.366 here. (0.358 in table 3.8 of Y. Liu,
"Efficient Fully Convolutional Networks for Dense Prediction Tasks", PhD thesis, Adelaide 2021, of
another reading: the paper does not print how narrow the bottlenecks between two sizes are. Here all
have a quarter of the channels that come out.)

    [student]
    kind = "python"
    target = "enet:enet"          # with this folder on PYTHONPATH
    pad = 8

Its logits are at the frame's own pixels, and "penultimate", of 16 channels, at stride 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

NARROWER = 4  # times fewer channels inside a bottleneck
PLAIN, ASYMMETRIC = ((3, 3),), ((5, 1), (1, 5))  # kernels inside; 5x5 in two parts
CONTEXT = (  # kernels and dilation, twice over at stride 8
    (PLAIN, 1),
    (PLAIN, 2),
    (ASYMMETRIC, 1),
    (PLAIN, 4),
    (PLAIN, 1),
    (PLAIN, 8),
    (ASYMMETRIC, 1),
    (PLAIN, 16),
)


def prelu(channels: int) -> nn.Module:
    """Make what follows a normalisation on the way down."""
    return nn.PReLU(channels)


def relu(channels: int) -> nn.Module:
    """Make the same on the way up."""
    return nn.ReLU()


class Bottleneck(nn.Module):
    """What comes in, and beside it: narrow, convolve, widen, drop."""

    def __init__(
        self,
        channels: int,
        kernels: tuple[tuple[int, int], ...] = PLAIN,
        dilation: int = 1,
        *,
        dropped: float = 0.1,
        rectified: Callable[[int], nn.Module] = prelu,
    ) -> None:
        super().__init__()
        narrow = channels // NARROWER
        parts = [nn.Conv2d(channels, narrow, 1, bias=False), *_after(narrow, rectified)]
        for kernel in kernels:
            padding = dilation * (kernel[0] // 2), dilation * (kernel[1] // 2)
            parts.append(nn.Conv2d(narrow, narrow, kernel, 1, padding, dilation, bias=False))
            parts += _after(narrow, rectified)
        self.branch = nn.Sequential(*parts, *_widened(narrow, channels, dropped))
        self.end = rectified(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Compute features of the same shape."""
        output: Tensor = self.end(features + self.branch(features))
        return output


class Halving(nn.Module):
    """A bottleneck to half the size: beside maxima, with as many channels of 0 as are new."""

    def __init__(self, inner: int, outer: int, dropped: float) -> None:
        super().__init__()
        narrow = outer // NARROWER
        self.branch = nn.Sequential(
            nn.Conv2d(inner, narrow, 2, 2, bias=False),
            *_after(narrow, prelu),
            nn.Conv2d(narrow, narrow, 3, padding=1, bias=False),
            *_after(narrow, prelu),
            *_widened(narrow, outer, dropped),
        )
        self.new, self.end = outer - inner, prelu(outer)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return its output, and where each maximum was."""
        most, places = F.max_pool2d(features, 2, 2, return_indices=True)
        most = F.pad(most, (0, 0, 0, 0, 0, self.new))
        return self.end(most + self.branch(features)), places


class Doubling(nn.Module):
    """A bottleneck to twice the size: values go back to where the maxima were."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        narrow = outer // NARROWER
        self.kept = nn.Sequential(nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer))
        self.branch = nn.Sequential(
            nn.Conv2d(inner, narrow, 1, bias=False),
            *_after(narrow, relu),
            nn.ConvTranspose2d(narrow, narrow, 3, 2, 1, output_padding=1, bias=False),
            *_after(narrow, relu),
            *_widened(narrow, outer, 0.1),
        )
        self.end = relu(outer)

    def forward(self, features: Tensor, places: Tensor) -> Tensor:
        """Compute features of twice the size; `places` as `Halving` gives them."""
        kept = F.max_unpool2d(self.kept(features), places, 2, 2)
        output: Tensor = self.end(kept + self.branch(features))
        return output


class ENet(nn.Module):
    """Five stages, down to stride 8 and back to 2, and a full convolution."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.initial = nn.Conv2d(3, 13, 3, 2, 1, bias=False)
        self.initial_end = nn.Sequential(*_after(16, prelu))
        self.halve1 = Halving(16, 64, 0.01)
        self.stage1 = nn.Sequential(*(Bottleneck(64, dropped=0.01) for _ in range(4)))
        self.halve2 = Halving(64, 128, 0.1)
        self.stage2, self.stage3 = (
            nn.Sequential(*(Bottleneck(128, *each) for each in CONTEXT)) for _ in range(2)
        )
        self.double4 = Doubling(128, 64)
        self.stage4 = nn.Sequential(*(Bottleneck(64, rectified=relu) for _ in range(2)))
        self.double5 = Doubling(64, 16)
        self.stage5 = Bottleneck(16, rectified=relu)
        self.classifier = nn.ConvTranspose2d(16, num_classes, 3, 2, 1, output_padding=1, bias=False)

    def forward(self, images: Tensor) -> dict[str, Tensor | dict[str, Tensor]]:
        """Compute logits, "penultimate", and "stage1" to "stage3" of images (B, 3, H, W)."""
        begun = torch.cat([self.initial(images), F.max_pool2d(images, 2, 2)], 1)
        features, outer = self.halve1(self.initial_end(begun))
        first = self.stage1(features)
        features, inner = self.halve2(first)
        second = self.stage2(features)
        third = self.stage3(second)
        fourth = self.stage4(self.double4(third, inner))
        last = self.stage5(self.double5(fourth, outer))
        stages = {"stage1": first, "stage2": second, "stage3": third}
        return {"logits": self.classifier(last), "features": {**stages, "penultimate": last}}


def enet(num_classes: int) -> ENet:
    """Build one."""
    return ENet(num_classes)


def _after(channels: int, rectified: Callable[[int], nn.Module]) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), rectified(channels)]


def _widened(narrow: int, outer: int, dropped: float) -> list[nn.Module]:
    convolution = nn.Conv2d(narrow, outer, 1, bias=False)
    return [convolution, nn.BatchNorm2d(outer), nn.Dropout2d(dropped)]
