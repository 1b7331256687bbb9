"""RAFT's correlations: all pairs of cells once, then looked up around where the flow points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

LEVELS = 4
RADIUS = 3  # cells, RAFT-small's
LEAST_CELLS = 2 ** (LEVELS - 1)  # a side of the map, or its coarsest level would be empty


def all_pairs(first: Tensor, second: Tensor) -> list[Tensor]:
    """Dot products of all cells of one map with all cells of another, on four scales of the latter.

    corr[b, i, j] = <first_i, second_j> / sqrt(C); the scales are means over 2x2 of the one before

    first, second: (B, C, h, w)
    returns: level l as (B * h * w, 1, h / 2^l, w / 2^l) float32: 4/3 * B * (h * w)^2 numbers
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
    """Correlations of each cell with those around the point it is thought to have moved to.

    Sampled bilinearly on every scale, with zeros outside. The window's **first** axis runs along x:
    the original code adds its row offsets to x and its column offsets to y, and weights trained
    with it want the channels in that order.

    points: (B, 2, h, w), x and y in cells of the second map
    returns: (B, levels * (2 * radius + 1)^2, h, w) float32
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
    """Look up maps (N, 1, h, w) at points (N, a, b, 2), x and y in cells: (N, a, b).

    Unaligned corners: in cells it is the same as aligned ones, and it has no division by
    (side - 1), which is 0 for the coarsest level of a small frame.
    """
    height, width = maps.shape[-2:]
    sides = points.new_tensor([width, height])
    grid = (2 * points + 1) / sides - 1
    return F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)[:, 0]
