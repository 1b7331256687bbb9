"""Follow optical flow from one frame into another, and find where it can be trusted.

A flow is (B, 2, H, W) in pixels, u to the right and v down, from frame a to frame b: the point of a
at (x, y) lies at (x + u, y + v) in b. Warping is backward: frame b sampled there gives frame a.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

LABELS = (torch.uint8, torch.int16, torch.int32, torch.int64)  # types that hold 255
RELATIVE = 0.01  # of the squared lengths of both flows
ABSOLUTE = 0.5  # squared pixels


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Sample an image where the flow points: bilinear, edges repeated outside.

    Args:
        image: (B, C, H, W) floating: a frame b, or anything on its grid
        flow: (B, 2, H, W) pixels, a -> b

    Returns:
        (B, C, H, W) on a's grid, float32 (float64 stays)
    """
    _demand_flow(flow)
    _demand_on_grid(image, flow, 4, "an image to warp is (B, C, H, W), floating")
    kept = torch.promote_types(torch.promote_types(image.dtype, flow.dtype), torch.float32)
    height, width = flow.shape[-2:]
    x, y = sampling_points(flow.to(kept))
    # One pixel has no extent to be a fraction of: any divisor samples it.
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    return F.grid_sample(
        image.to(kept), grid, mode="bilinear", padding_mode="border", align_corners=True
    )


def warp_labels(
    labels: Tensor, flow: Tensor, *, outside: Literal["ignore", "edge"] = "ignore"
) -> Tensor:
    """Look up a label map where the flow points: the nearest pixel, so that no class is invented.

    Args:
        labels: (B, H, W) uint8 or a wider integer, on frame b's grid
        flow: (B, 2, H, W) pixels, a -> b
        outside: what points outside frame b get: 255, or the label of the nearest edge

    Returns:
        (B, H, W) on a's grid, of the labels' type; a flow that is not finite points outside
    """
    _demand_flow(flow)
    _demand_on_grid(
        labels, flow, 3, "a label map is (B, H, W), uint8 or wider", fits=labels.dtype in LABELS
    )
    height, width = labels.shape[-2:]
    x, y = sampling_points(flow.to(torch.promote_types(flow.dtype, torch.float32)))
    # Halves go up. torch.round takes them to the even pixel, which would alternate.
    column, row = torch.floor(x + 0.5), torch.floor(y + 0.5)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)  # False for NaN
    index = _whole(row, height) * width + _whole(column, width)  # (B, H, W)
    found = labels.flatten(1).gather(1, index.flatten(1)).view_as(labels)
    finite = torch.isfinite(x) & torch.isfinite(y)
    return torch.where(inside if outside == "ignore" else finite, found, IGNORE)


def inside_frame(flow: Tensor) -> Tensor:
    """Mark the pixels whose target lies on the other frame.

    Args:
        flow: (B, 2, H, W) pixels

    Returns:
        (B, 1, H, W) bool; False where the flow is not finite
    """
    _demand_flow(flow)
    height, width = flow.shape[-2:]
    x, y = sampling_points(flow.to(torch.promote_types(flow.dtype, torch.float32)))
    return ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))[:, None]


def visible(
    flow: Tensor, flow_back: Tensor, *, relative: float = RELATIVE, absolute: float = ABSOLUTE
) -> Tensor:
    """Mark the pixels that the other frame shows too: going there and back ends where it began.

    |w + w'|^2 < relative * (|w|^2 + |w'|^2) + absolute,  w = flow(x), w' = flow_back(x + w)

    Sundaram, Brox and Keutzer, "Dense point trajectories by GPU-accelerated large displacement
    optical flow", ECCV 2010, whose thresholds are the defaults. They end tracks at the boundaries
    of motion as well, since drift adds up along them; a pair of frames has no track to lose.

    Args:
        flow: (B, 2, H, W) pixels, a -> b
        flow_back: (B, 2, H, W) pixels, b -> a, on b's grid
        relative, absolute: thresholds, without unit and in squared pixels

    Returns:
        (B, 1, H, W) bool on a's grid; False also where the target lies outside frame b
    """
    back = warp(flow_back, flow)
    flow = flow.to(back.dtype)
    gap = (flow + back).square().sum(1, keepdim=True)  # (B, 1, H, W)
    length = (flow.square() + back.square()).sum(1, keepdim=True)
    return (gap < relative * length + absolute) & inside_frame(flow)


def photometric_weight(
    image: Tensor, other: Tensor, flow: Tensor, *, channels: Literal["apart", "summed"] = "apart"
) -> Tensor:
    """Weight each pixel by how well the other frame explains it: a soft mask of what is hidden.

    V = exp(-|I_a - warp(I_b)|),  |.| = the sum over channels of magnitudes

    Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference", ECCV 2020, below
    eq. 1. arXiv:2002.11433

    Args:
        image, other: (B, C, H, W) floating, frames a and b; their unit decides how strict V is, and
            the paper's is RGB with ImageNet's mean taken off and divided by its standard deviation
        flow: (B, 2, H, W) pixels, a -> b
        channels: "summed" adds the channels' differences up before taking the magnitude, as the
            authors' code does (model/flow_model.py of irfanICMLL/ETC): differences of opposite sign
            then cancel, and a red car over green grass may weigh 1

    Returns:
        (B, 1, H, W) in 0..1, float32 (float64 stays)
    """
    _demand_on_grid(image, flow, 4, "a frame is (B, C, H, W), floating")
    warped = warp(other, flow)
    difference = image.to(warped.dtype) - warped
    if channels == "summed":
        return torch.exp(-difference.sum(1, keepdim=True).abs())
    return torch.exp(-difference.abs().sum(1, keepdim=True))


def sampling_points(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each pixel of frame a lies in frame b: x and y, (B, H, W), in pixels."""
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)
    return x + flow[:, 0], y[:, None] + flow[:, 1]


def _whole(position: Tensor, size: int) -> Tensor:
    """Turn positions into indices on the grid; any index for what is not finite."""
    return torch.nan_to_num(position, nan=0.0).clamp(0, size - 1).long()


def _demand_flow(flow: Tensor) -> None:
    if flow.ndim != 4 or flow.shape[1] != 2 or not flow.is_floating_point():
        raise ArtifactError(
            f"a flow is (B, 2, H, W), floating; got {tuple(flow.shape)} {flow.dtype}"
        )


def _demand_on_grid(
    grid: Tensor, flow: Tensor, ndim: int, rule: str, *, fits: bool | None = None
) -> None:
    fits = grid.is_floating_point() if fits is None else fits
    if grid.ndim != ndim or not fits:
        raise ArtifactError(f"{rule}; got {tuple(grid.shape)} {grid.dtype}")
    if (grid.shape[0], *grid.shape[-2:]) != (flow.shape[0], *flow.shape[-2:]):
        raise ArtifactError(
            f"{rule}, with the batch and sides of the flow {tuple(flow.shape)}; "
            f"got {tuple(grid.shape)}"
        )
