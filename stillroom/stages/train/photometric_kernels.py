"""Photometric jitter of an image in place, in two passes over its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

RED, GREEN, BLUE = np.float32(0.299), np.float32(0.587), np.float32(0.114)  # ITU-R BT.601
ONE, BLACK, WHITE = np.float32(1), np.float32(0), np.float32(255)


@compiled
def _grey(red: np.float32, green: np.float32, blue: np.float32) -> Any:
    return red * RED + green * GREEN + blue * BLUE


@compiled
def mean_grey(image: NDArray[np.float32], mask: NDArray[np.bool_], brightness: np.float32) -> Any:
    """Mean grey of the pixels that count, each channel brightened first; NaN where none does.

    Args:
        image: (3, H, W)
        mask: (H, W)
    """
    total, count = 0.0, 0
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x]:
                total += _grey(
                    image[0, y, x] * brightness,
                    image[1, y, x] * brightness,
                    image[2, y, x] * brightness,
                )
                count += 1
    return np.float32(total / count) if count else np.float32(np.nan)


@compiled
def relight(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    middle: np.float32,
    brightness: np.float32,
    contrast: np.float32,
    saturation: np.float32,
) -> None:
    """Scale brightness, contrast about `middle` and saturation of the pixels that count; clip.

    A factor of contrast or saturation that is 1 is left out, rounding included.
    """
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if not mask[y, x]:
                continue
            red, green, blue = image[0, y, x], image[1, y, x], image[2, y, x]
            red, green, blue = red * brightness, green * brightness, blue * brightness
            if contrast != ONE:
                red = middle + (red - middle) * contrast
                green = middle + (green - middle) * contrast
                blue = middle + (blue - middle) * contrast
            if saturation != ONE:
                grey = _grey(red, green, blue)
                red = grey + (red - grey) * saturation
                green = grey + (green - grey) * saturation
                blue = grey + (blue - grey) * saturation
            image[0, y, x] = min(max(red, BLACK), WHITE)
            image[1, y, x] = min(max(green, BLACK), WHITE)
            image[2, y, x] = min(max(blue, BLACK), WHITE)
