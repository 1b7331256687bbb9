"""Photometric jitter: brightness and colours of images change; labels and artifacts do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from stillroom.stages.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Strength = Annotated[float, Field(ge=0, lt=1)]
UNLIT = np.ones(3, np.float32)  # factors that change nothing


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


def draw_light(config: PhotometricConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw the factors (3,) of brightness, contrast and saturation.

    Always takes three numbers from `rng`, so that switching one off moves no other.
    """
    strengths = (config.brightness, config.contrast, config.saturation)
    return (1.0 + rng.uniform(-1.0, 1.0, 3) * strengths).astype(np.float32)


def jitter(
    config: PhotometricConfig, image: Tensor, mask: Tensor, light: NDArray[np.float32]
) -> Tensor:
    """Scale brightness, then contrast about the frame's mean grey, then saturation; clip to 0..255.

    Args:
        image: (3, H, W) float32 RGB, 0..255, contiguous; changed in place
        mask: (1, H, W) bool, True where the image shows the frame; elsewhere it is left alone, and
            does not count in the mean
        light: factors (3,) of `draw_light`

    Returns:
        the image
    """
    from stillroom.stages.train.photometric_kernels import mean_grey, relight

    if config.is_off():
        return image
    brightness, contrast, saturation = light
    pixels, shown = image.numpy(), mask[0].numpy()
    middle = mean_grey(pixels, shown, brightness) if config.contrast else np.float32(0)
    relight(pixels, shown, middle, brightness, contrast, saturation)
    return image
