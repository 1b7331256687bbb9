"""Predictions over what they were made of, and what their colours mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.pictures.legend import Legend, class_entries
from stillroom.stages.pictures.page import MARGIN, Page, write_png
from stillroom.stages.pictures.palette import colourise
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

OPACITY = 0.5
WIDTH = 720  # of a legend


def overlay(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], colours: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Lay the classes' colours over an image, half and half.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) uint8, 0..C-1.
        colours: (C, 3) uint8.

    Raises:
        ArtifactError: the labels do not cover the image, or have no colour.
    """
    if labels.shape != image.shape[:2]:
        raise ArtifactError(f"labels {labels.shape} do not cover the image {image.shape[:2]}")
    mixed = (1 - OPACITY) * image + OPACITY * colourise(labels, colours)
    return mixed.round().astype(np.uint8)


def write_legend(path: Path, classes: Sequence[str]) -> Path:
    """Draw the colour of every class as a PNG; raises as `write_png`."""
    legend = Legend(*class_entries(classes, np.ones(256, np.int64), {}), WIDTH - 2 * MARGIN)
    page = Page(WIDTH, legend.height + 2 * MARGIN)
    legend.draw(page, MARGIN)
    return write_png(path, page.image)
