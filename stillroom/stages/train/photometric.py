"""Photometric jitter: brightness and colours of images change; labels and artifacts do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from stillroom.stages.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

Strength = Annotated[float, Field(ge=0, lt=1)]


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
        image: (3, H, W) float32 RGB, 0..255, contiguous; changed in place
        mask: (1, H, W) bool, True where the image shows the frame; elsewhere it is left alone, and
            does not count in the mean

    Returns:
        the image
    """
    from stillroom.stages.train.photometric_kernels import mean_grey, relight

    draws = rng.uniform(-1.0, 1.0, 3).tolist()
    if config.is_off():
        return image
    strengths = (config.brightness, config.contrast, config.saturation)
    brightness, contrast, saturation = (
        np.float32(1.0 + draw * strength) for draw, strength in zip(draws, strengths, strict=True)
    )
    pixels, shown = image.numpy(), mask[0].numpy()
    middle = mean_grey(pixels, shown, brightness) if config.contrast else np.float32(0)
    relight(pixels, shown, middle, brightness, contrast, saturation)
    return image
