"""Logits at the image's own pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


def upsample_logits(logits: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Bring logits to the image's pixels: bilinear by exactly `stride`, then cropped.

    Resizing to `size` instead would move every position where `size` is no multiple of the stride.

    Args:
        logits: (B, C, ceil(H / stride), ceil(W / stride))
        size: (H, W)

    Returns:
        (B, C, H, W), float32 (float64 stays)
    """
    height, width = size
    expected = (math.ceil(height / stride), math.ceil(width / stride))
    if logits.ndim != 4 or tuple(logits.shape[2:]) != expected:
        raise ArtifactError(
            f"logits at stride {stride} for {height}x{width} pixels are (B, C, {expected[0]}, "
            f"{expected[1]}); got {tuple(logits.shape)} {logits.dtype}"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if stride > 1:
        logits = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    return logits[:, :, :height, :width]


def highest_class(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the class of the highest logit at each pixel of another size: bilinear, from centres.

    One class is resized after the other, for memory's sake.

    Args:
        logits: (C, h, w)
        size: (H, W)

    Returns:
        (H, W) uint8
    """
    if tuple(logits.shape[1:]) == size:
        return logits.argmax(0).to(torch.uint8)
    classes = torch.zeros(size, dtype=torch.uint8, device=logits.device)
    best = torch.full(size, -torch.inf, device=logits.device)
    for number, one in enumerate(logits):
        resized = F.interpolate(one[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        classes[resized > best] = number
        best = best.maximum(resized)
    return classes
