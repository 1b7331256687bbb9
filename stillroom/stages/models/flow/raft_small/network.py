"""RAFT-small: a flow that is corrected again and again from correlations around its end points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from stillroom.stages.device_values import constants

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

STRIDE = 8  # of the grid that features, correlations and the flow within are on
LEVELS = 4  # scales of the correlations
RADIUS = 3  # of the window of correlations, in grid positions
LEAST_SIDE = STRIDE * 2 ** (LEVELS - 1)  # pixels; below, the coarsest correlations would be empty
CORRELATIONS = LEVELS * (2 * RADIUS + 1) ** 2
HIDDEN, CONTEXT = 96, 64  # channels of the state, and of what goes with it into every update
MOTION = 82  # channels: 80 of correlations and flow together, and the flow itself


class RaftSmall(nn.Module):
    """The small RAFT, 990,162 numbers, with the names of the original checkpoint.

    Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020.
    arXiv:2003.12039. Points, correlations and flow stay float32 under autocast.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fnet = SmallEncoder(128, instance_norm=True)
        self.cnet = SmallEncoder(HIDDEN + CONTEXT, instance_norm=False)
        self.update_block = Update()

    def forward(self, first: Tensor, second: Tensor, iterations: int) -> Tensor:
        """Estimate the flow first -> second.

        Args:
            first, second: (B, 3, H, W) in -1..1; sides are multiples of 8, and 64 or more
            iterations: of the update; the weights were trained with 12

        Returns:
            (B, 2, H, W) float32, pixels, u to the right and v down
        """
        features = self.fnet(torch.cat([first, second]))
        pyramid = all_pairs(*features.chunk(2))
        state, context = self.cnet(first).split([HIDDEN, CONTEXT], dim=1)
        state, context = torch.tanh(state), F.relu(context)
        height, width = (side // STRIDE for side in first.shape[2:])
        start = _positions(len(first), height, width, first)
        points = start
        for _ in range(iterations):
            found = look_up(pyramid, points)
            state, change = self.update_block(state, context, found, points - start)
            points = points + change.float()
        flow = F.interpolate(
            points - start, scale_factor=STRIDE, mode="bilinear", align_corners=True
        )
        return flow * STRIDE


class Update(nn.Module):
    """One correction: correlations and flow into a recurrent state, and a change of flow out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = ConvGRU(HIDDEN, CONTEXT + MOTION)
        self.flow_head = FlowHead()

    def forward(
        self, state: Tensor, context: Tensor, found: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the new state, and the change of the flow, (B, 2, h, w) in grid positions."""
        motion = self.encoder(found, flow)
        state = self.gru(state, torch.cat([context, motion], dim=1))
        return state, self.flow_head(state)


class MotionEncoder(nn.Module):
    """Turn correlations and flow into features."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(CORRELATIONS, 96, 1)
        self.convf1 = nn.Conv2d(2, 64, 7, padding=3)
        self.convf2 = nn.Conv2d(64, 32, 3, padding=1)
        self.conv = nn.Conv2d(128, MOTION - 2, 3, padding=1)

    def forward(self, found: Tensor, flow: Tensor) -> Tensor:
        """found: (B, 196, h, w); flow: (B, 2, h, w); returns (B, 82, h, w)."""
        correlations = F.relu(self.convc1(found))
        flows = F.relu(self.convf2(F.relu(self.convf1(flow))))
        joined = F.relu(self.conv(torch.cat([correlations, flows], dim=1)))
        return torch.cat([joined, flow], dim=1)


class ConvGRU(nn.Module):
    """A gated recurrent unit at every position, with 3x3 convolutions for its matrices."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        self.convz = nn.Conv2d(hidden + inputs, hidden, 3, padding=1)
        self.convr = nn.Conv2d(hidden + inputs, hidden, 3, padding=1)
        self.convq = nn.Conv2d(hidden + inputs, hidden, 3, padding=1)

    def forward(self, state: Tensor, x: Tensor) -> Tensor:
        """state: (B, hidden, h, w); x: (B, inputs, h, w); returns the new state."""
        both = torch.cat([state, x], dim=1)
        renewed = torch.sigmoid(self.convz(both))
        kept = torch.sigmoid(self.convr(both))
        proposal = torch.tanh(self.convq(torch.cat([kept * state, x], dim=1)))
        return (1 - renewed) * state + renewed * proposal


class FlowHead(nn.Module):
    """Turn a state into the change of the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN, 128, 3, padding=1)
        self.conv2 = nn.Conv2d(128, 2, 3, padding=1)

    def forward(self, state: Tensor) -> Tensor:
        """state: (B, 96, h, w); returns (B, 2, h, w)."""
        change: Tensor = self.conv2(F.relu(self.conv1(state)))
        return change


class SmallEncoder(nn.Module):
    """Frames to features at stride 8, with the names of the original checkpoint.

    Args:
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


def all_pairs(first: Tensor, second: Tensor) -> list[Tensor]:
    """Correlate all positions of one map with all of another, on four scales of the latter.

    corr[b, i, j] = <first_i, second_j> / sqrt(C); the scales are means over 2x2 of the one before

    Args:
        first, second: (B, C, h, w)

    Returns:
        level l as (B * h * w, 1, h / 2^l, w / 2^l) float32: 4/3 * B * (h * w)^2 numbers
    """
    batch, channels, height, width = first.shape
    with torch.autocast(first.device.type, enabled=False):
        first, second = first.float().flatten(2), second.float().flatten(2)
        products = first.transpose(1, 2) @ second / math.sqrt(channels)  # (B, hw, hw)
    pyramid = [products.reshape(batch * height * width, 1, height, width)]
    for _ in range(LEVELS - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def look_up(pyramid: Sequence[Tensor], points: Tensor, radius: int = RADIUS) -> Tensor:
    """Sample the correlations of each position with those around its estimated end point.

    Sampled bilinearly on every scale, with zeros outside. The window's **first** axis runs along x:
    the original code adds its row offsets to x and its column offsets to y, and weights trained
    with it want the channels in that order.

    Args:
        points: (B, 2, h, w), x and y in grid positions of the second map

    Returns:
        (B, levels * (2 * radius + 1)^2, h, w) float32
    """
    batch, _, height, width = points.shape
    side = 2 * radius + 1
    offsets = torch.arange(-radius, radius + 1, device=points.device, dtype=points.dtype)
    centres = points.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)  # (B * h * w, 1, 1, 2)
    window = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1)
    found = []
    for level, correlations in enumerate(pyramid):
        sampled = _sample(correlations, centres / 2**level + window)  # (B * h * w, side, side)
        found.append(sampled.reshape(batch, height, width, side * side))
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2).contiguous()


def _sample(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps (N, 1, h, w) at points (N, a, b, 2), x and y in grid positions: (N, a, b).

    Unaligned corners give the same as aligned ones here, without a division by (side - 1), which is
    0 for the coarsest level of a small frame.
    """
    height, width = maps.shape[-2:]
    grid = (2 * points + 1) / constants((width, height), points) - 1
    return F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)[:, 0]


def _positions(batch: int, height: int, width: int, like: Tensor) -> Tensor:
    """Return each position's own x and y: (B, 2, height, width) float32."""
    x = torch.arange(width, device=like.device, dtype=torch.float32).expand(height, width)
    y = torch.arange(height, device=like.device, dtype=torch.float32)[:, None].expand_as(x)
    return torch.stack([x, y]).expand(batch, -1, -1, -1)
