"""Photometric jitter: brightness and colours of images change; labels and artifacts do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from stillroom.stages.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Strength = Annotated[float, Field(ge=0, lt=1)]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class PhotometricConfig(Settings):
    """How far brightness, contrast and saturation may move.

    Each factor is drawn uniformly from [1 - strength, 1 + strength]; 0 switches it off.
    """

    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0

    def is_off(self) -> bool:
        """Tell whether the jitter leaves every image as it is."""
        return not (self.brightness or self.contrast or self.saturation)


def jitter(
    config: PhotometricConfig, image: Tensor, mask: Tensor, rng: np.random.Generator
) -> Tensor:
    """Scale brightness, then contrast about the frame's mean grey, then saturation; clip to 0..255.

    Always takes three numbers from `rng`, so that switching one factor off moves no other.

    Args:
        image: (3, H, W) float32 RGB, 0..255
        mask: (1, H, W) bool, True where the image shows the frame; elsewhere it is left alone, and
            does not count in the mean

    Returns:
        (3, H, W) float32
    """
    draws = rng.uniform(-1.0, 1.0, 3).tolist()
    if config.is_off() or not bool(mask.any()):
        return image
    strengths = (config.brightness, config.contrast, config.saturation)
    brightness, contrast, saturation = (
        1.0 + draw * strength for draw, strength in zip(draws, strengths, strict=True)
    )
    luma = image.new_tensor(_LUMA)[:, None, None]
    lit = image * brightness
    if config.contrast:
        middle = (lit * luma).sum(0, keepdim=True)[mask].mean()
        lit = middle + (lit - middle) * contrast
    if config.saturation:
        grey = (lit * luma).sum(0, keepdim=True)  # (1, H, W)
        lit = grey + (lit - grey) * saturation
    return torch.where(mask, lit.clamp_(0.0, 255.0), image)
