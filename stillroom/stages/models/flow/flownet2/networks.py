"""The four kinds of network inside FlowNet2, with the names and shapes of NVIDIA's checkpoint.

All are an encoder of strided convolutions and a refinement that climbs back: at each level the
features are deconvolved, joined with the encoder's of that level and the flow from below, and a
flow is predicted from them. `Refinement` is that climb; the subclasses are the encoders.

Dosovitskiy et al., "FlowNet: Learning Optical Flow with Convolutional Networks", ICCV 2015,
arXiv:1504.06852 (C and S); Ilg et al., "FlowNet 2.0: Evolution of Optical Flow Estimation with Deep
Networks", CVPR 2017, arXiv:1612.01925 (SD, fusion and the stack)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from stillroom.stages.models.flow.flownet2.correlation import correlation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

SLOPE = 0.1  # of the leaky ReLU


class Level(NamedTuple):
    """One step of a refinement, in channels.

    Attributes:
        number: its stride is 2 ** number
        below: that the deconvolution reads
        up: that it gives
        joined: the encoder's, the deconvolution's, and the flow's two
    """

    number: int
    below: int
    up: int
    joined: int


TO_QUARTER = (
    Level(5, 1024, 512, 1026),
    Level(4, 1026, 256, 770),
    Level(3, 770, 128, 386),
    Level(2, 386, 64, 194),
)
TO_FULL = (Level(1, 128, 32, 162), Level(0, 162, 16, 82))


class Refinement(nn.Module):
    """From the deepest features to a flow on the finest level.

    Args:
        smooth: predict from a further convolution of the joined features, not from them directly
        flow_bias: whether the deconvolutions of the flow have one
    """

    def __init__(self, levels: Sequence[Level], *, smooth: bool, flow_bias: bool) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.smooth = smooth
        top = levels[0].number + 1
        self.add_module(f"predict_flow{top}", _predict(levels[0].below))
        for number, below, up, joined in levels:
            self.add_module(f"deconv{number}", _deconv(below, up))
            self.add_module(
                f"upsampled_flow{number + 1}_to_{number}",
                nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1, bias=flow_bias),
            )
            if smooth:
                # No activation; a Sequential for its name's sake.
                smoother = nn.Sequential(nn.Conv2d(joined, up, 3, padding=1))
                self.add_module(f"inter_conv{number}", smoother)
            self.add_module(f"predict_flow{number}", _predict(up if smooth else joined))

    def refine(self, deepest: Tensor, skips: Mapping[int, Tensor]) -> Tensor:
        """Climb from the deepest features; `skips` are the encoder's features by level."""
        features = deepest
        flow: Tensor = self._layer(f"predict_flow{self.levels[0].number + 1}")(deepest)
        for level in self.levels:
            number = level.number
            flow_up = self._layer(f"upsampled_flow{number + 1}_to_{number}")(flow)
            up = self._layer(f"deconv{number}")(features)
            features = torch.cat([skips[number], up, flow_up], dim=1)
            read = self._layer(f"inter_conv{number}")(features) if self.smooth else features
            flow = self._layer(f"predict_flow{number}")(read)
        return flow

    def _layer(self, name: str) -> nn.Module:
        layer: nn.Module = getattr(self, name)
        return layer


class FlowNetC(Refinement):
    """Two frames apart down to an eighth, correlated there, and on as one."""

    def __init__(self) -> None:
        super().__init__(TO_QUARTER, smooth=False, flow_bias=True)
        self.conv1 = _conv(3, 64, kernel=7, stride=2)
        self.conv2 = _conv(64, 128, kernel=5, stride=2)
        self.conv3 = _conv(128, 256, kernel=5, stride=2)
        self.conv_redir = _conv(256, 32, kernel=1)
        self.conv3_1 = _conv(473, 256)
        _add_deep_convolutions(self)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """first, second: (B, 3, H, W); returns (B, 2, H / 4, W / 4) in units of 20 pixels."""
        second = self.conv3(self.conv2(self.conv1(second)))
        quarter = self.conv2(self.conv1(first))
        eighth = self.conv3(quarter)
        alike = F.leaky_relu(correlation(eighth, second), SLOPE)  # (B, 441, H / 8, W / 8)
        eighth = self.conv3_1(torch.cat([self.conv_redir(eighth), alike], dim=1))
        deepest, skips = _go_deep(self, eighth)
        return self.refine(deepest, {**skips, 2: quarter})


class FlowNetS(Refinement):
    """Twelve channels: both frames, the second one warped, the flow so far and what it misses."""

    def __init__(self) -> None:
        super().__init__(TO_QUARTER, smooth=False, flow_bias=False)
        self.conv1 = _conv(12, 64, kernel=7, stride=2)
        self.conv2 = _conv(64, 128, kernel=5, stride=2)
        self.conv3 = _conv(128, 256, kernel=5, stride=2)
        self.conv3_1 = _conv(256, 256)
        _add_deep_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 12, H, W); returns (B, 2, H / 4, W / 4) in units of 20 pixels."""
        quarter = self.conv2(self.conv1(x))
        deepest, skips = _go_deep(self, self.conv3_1(self.conv3(quarter)))
        return self.refine(deepest, {**skips, 2: quarter})


class FlowNetSD(Refinement):
    """For small displacements: no large kernels, and full resolution at the start."""

    def __init__(self) -> None:
        super().__init__(TO_QUARTER, smooth=True, flow_bias=True)
        self.conv0 = _conv(6, 64)
        self.conv1 = _conv(64, 64, stride=2)
        self.conv1_1 = _conv(64, 128)
        self.conv2 = _conv(128, 128, stride=2)
        self.conv2_1 = _conv(128, 128)
        self.conv3 = _conv(128, 256, stride=2)
        self.conv3_1 = _conv(256, 256)
        _add_deep_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 6, H, W), both frames; returns (B, 2, H / 4, W / 4) in units of 1/20 pixel."""
        quarter = self.conv2_1(self.conv2(self.conv1_1(self.conv1(self.conv0(x)))))
        deepest, skips = _go_deep(self, self.conv3_1(self.conv3(quarter)))
        return self.refine(deepest, {**skips, 2: quarter})


class FlowNetFusion(Refinement):
    """Two flows, their lengths and what each misses, to one flow at full resolution."""

    def __init__(self) -> None:
        super().__init__(TO_FULL, smooth=True, flow_bias=True)
        self.conv0 = _conv(11, 64)
        self.conv1 = _conv(64, 64, stride=2)
        self.conv1_1 = _conv(64, 128)
        self.conv2 = _conv(128, 128, stride=2)
        self.conv2_1 = _conv(128, 128)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 11, H, W); returns (B, 2, H, W) in pixels."""
        full = self.conv0(x)
        half = self.conv1_1(self.conv1(full))
        quarter = self.conv2_1(self.conv2(half))
        return self.refine(quarter, {1: half, 0: full})


def _add_deep_convolutions(network: nn.Module) -> None:
    """From an eighth down to a sixty-fourth: the same in C, S and SD."""
    channels = 256
    for number, outputs in ((4, 512), (5, 512), (6, 1024)):
        network.add_module(f"conv{number}", _conv(channels, outputs, stride=2))
        network.add_module(f"conv{number}_1", _conv(outputs, outputs))
        channels = outputs


def _go_deep(network: nn.Module, eighth: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """The features of level 6, and those of 3 to 5 by level."""
    skips = {3: eighth}
    features = eighth
    for number in (4, 5, 6):
        features = getattr(network, f"conv{number}")(features)
        features = getattr(network, f"conv{number}_1")(features)
        skips[number] = features
    return skips.pop(6), skips


def _conv(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=(kernel - 1) // 2),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def _deconv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def _predict(inputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, 2, 3, padding=1)
