"""FlowNet2: C, then S twice on what it misses, SD beside them, and a fusion of both branches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from stillroom.stages.models.flow.flownet2.networks import (
    FlowNetC,
    FlowNetFusion,
    FlowNetS,
    FlowNetSD,
)
from stillroom.stages.warp import warp

if TYPE_CHECKING:
    from torch import Tensor

DIV_FLOW = 20.0  # pixels in C's and S's unit of flow, and SD's units in a pixel
RGB_MAX = 255.0
MULTIPLE = 64  # pixels: six halvings


class FlowNet2(nn.Module):
    """The whole stack, with the names of NVIDIA's checkpoint: 220 tensors, 162,518,834 numbers.

    Ilg et al., "FlowNet 2.0: Evolution of Optical Flow Estimation with Deep Networks", CVPR 2017,
    fig. 2. arXiv:1612.01925. Quarter flows are upsampled with half-pixel centres, as in the
    authors' Caffe layer; the PyTorch port says only "bilinear", which meant aligned corners before
    torch 0.4 and this since. Warping, norms, correlation and flows stay float32 under autocast.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flownetc = FlowNetC()
        self.flownets_1 = FlowNetS()
        self.flownets_2 = FlowNetS()
        self.flownets_d = FlowNetSD()
        self.flownetfusion = FlowNetFusion()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Estimate the flow first -> second.

        Args:
            first, second: (B, 3, H, W) floating, RGB 0..255; sides are multiples of 64

        Returns:
            (B, 2, H, W) float32, pixels, u to the right and v down
        """
        first, second = centred(first, second)
        both = torch.cat([first, second], dim=1)  # (B, 6, H, W)
        flow = _four_times(self.flownetc(first, second).float() * DIV_FLOW, "bilinear")
        flow = self.flownets_1(_input_of_s(first, second, flow)).float() * DIV_FLOW
        flow = _four_times(flow, "bilinear")
        flow = self.flownets_2(_input_of_s(first, second, flow)).float() * DIV_FLOW
        large = _four_times(flow, "nearest")
        small = _four_times(self.flownets_d(both).float() / DIV_FLOW, "nearest")
        lengths = [channel_norm(small), channel_norm(large)]
        misses = [channel_norm(first - warp(second, each)) for each in (small, large)]
        fused: Tensor = self.flownetfusion(
            torch.cat([first, small, large, *lengths, *misses], dim=1)  # (B, 11, H, W)
        )
        return fused.float()


def channel_norm(x: Tensor) -> Tensor:
    """Return the Euclidean norm over channels, (B, 1, H, W); its gradient is 0 where all are 0."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return norm


def centred(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract each sample's mean colour over both frames, and divide by 255: float32."""
    first, second = first.float(), second.float()
    mean = torch.stack([first, second], dim=2).mean(dim=(2, 3, 4))[..., None, None]  # (B, 3, 1, 1)
    return (first - mean) / RGB_MAX, (second - mean) / RGB_MAX


def _input_of_s(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """Stack the input of S, (B, 12, H, W): frames, the second warped, the flow, what it misses."""
    warped = warp(second, flow)
    miss = channel_norm(first - warped)
    return torch.cat([first, second, warped, flow / DIV_FLOW, miss], dim=1)


def _four_times(flow: Tensor, mode: str) -> Tensor:
    aligned = False if mode == "bilinear" else None
    return F.interpolate(flow, scale_factor=4, mode=mode, align_corners=aligned)
