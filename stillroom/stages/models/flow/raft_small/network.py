"""RAFT-small: a flow that is corrected again and again by what it finds where it points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from stillroom.stages.models.flow.raft_small.encoder import SmallEncoder
from stillroom.stages.models.flow.raft_small.lookup import LEVELS, RADIUS, all_pairs, look_up

if TYPE_CHECKING:
    from torch import Tensor

STRIDE = 8
HIDDEN, CONTEXT = 96, 64  # channels of the state, and of what it is told at every step
CORRELATIONS = LEVELS * (2 * RADIUS + 1) ** 2
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

        first, second: (B, 3, H, W) in -1..1; sides are multiples of 8, and 64 or more
        iterations: of the update; the weights were trained with 12
        returns: (B, 2, H, W) float32, pixels, u to the right and v down
        """
        features = self.fnet(torch.cat([first, second]))
        pyramid = all_pairs(*features.chunk(2))
        state, context = self.cnet(first).split([HIDDEN, CONTEXT], dim=1)
        state, context = torch.tanh(state), F.relu(context)
        start = _cells(first.shape[0], first.shape[2] // STRIDE, first.shape[3] // STRIDE, first)
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
        """The new state, and the change of the flow, (B, 2, h, w) in cells."""
        motion = self.encoder(found, flow)
        state = self.gru(state, torch.cat([context, motion], dim=1))
        return state, self.flow_head(state)


class MotionEncoder(nn.Module):
    """Correlations and flow to features of motion."""

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
    """A gated recurrent unit at every cell, with 3x3 convolutions for its matrices."""

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
    """A state to the change of the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN, 128, 3, padding=1)
        self.conv2 = nn.Conv2d(128, 2, 3, padding=1)

    def forward(self, state: Tensor) -> Tensor:
        """state: (B, 96, h, w); returns (B, 2, h, w)."""
        change: Tensor = self.conv2(F.relu(self.conv1(state)))
        return change


def _cells(batch: int, height: int, width: int, like: Tensor) -> Tensor:
    """Each cell's own x and y: (B, 2, height, width) float32."""
    x = torch.arange(width, device=like.device, dtype=torch.float32).expand(height, width)
    y = torch.arange(height, device=like.device, dtype=torch.float32)[:, None].expand_as(x)
    return torch.stack([x, y]).expand(batch, -1, -1, -1)
