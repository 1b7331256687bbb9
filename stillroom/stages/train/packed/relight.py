"""Photometric jitter of a batch on any device, as `photometric.jitter` of its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.photometric import PhotometricConfig

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


def relit(config: PhotometricConfig, images: Tensor, shown: Tensor, light: Tensor) -> Tensor:
    """Return images with other brightness, contrast and saturation where they show their frame.

    Every product and sum is rounded by itself, as on the host; means of grey are added up in
    another order, so that contrast is within a unit in the last place or two.

    Args:
        images: (B, 3, H, W) float32, 0..255
        shown: (B, 1, H, W) bool
        light: (B, 3), of `photometric.draw_light`
    """
    brightness, contrast, saturation = (light[:, i, None, None, None] for i in range(3))
    made = images * brightness
    if config.contrast:
        total = torch.where(shown, _grey(made), 0).sum((1, 2, 3), dtype=torch.float64)
        middle = (total / shown.sum((1, 2, 3))).float()[:, None, None, None]
        made = (made - middle).mul_(contrast).add_(middle)
    if config.saturation:
        grey = _grey(made)
        made = (made - grey).mul_(saturation).add_(grey)
    return torch.where(shown, made.clamp_(0, 255), images)


def _grey(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    red, green, blue = (images[:, i : i + 1] * share for i, share in enumerate(GREY))
    return red + green + blue
