"""Are a teacher's features of a mirrored frame the mirror image of its features?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillroom.stages.evaluate.output_errors import cosines
from stillroom.stages.geometry import apply_field, apply_image, view_mask
from stillroom.stages.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Grid = NDArray[np.float32]
    Live = Callable[[NDArray[np.uint8]], Mapping[str, Grid]]

ALIKE = 0.95  # a cosine: above it mirrored features are nearly those of the mirrored frame


class MirrorTally:
    """Sums up, by artifact, the cosine of each position's two vectors over frames."""

    def __init__(self, strides: Mapping[str, int]) -> None:
        """Take the features' names, and the pixels of a frame to one of their positions."""
        self._strides = strides
        self._sums = dict.fromkeys(strides, 0.0)
        self._positions = dict.fromkeys(strides, 0)

    def add(
        self,
        image: NDArray[np.uint8],
        valid: tuple[int, int],
        stored: Mapping[str, NDArray[Any]],
        live: Live,
    ) -> None:
        """Add one frame.

        Args:
            image: (H, W, 3) uint8, RGB
            valid: (height, width) of the part that is no padding
            stored: what the cache holds of it, (C, h, w)
            live: the teacher: an image to its grids
        """
        if not self._strides:
            return
        canvas = (image.shape[0], image.shape[1])
        view = View(0, 0, *canvas, *canvas, flip=True)
        pixels = apply_image(view, torch.from_numpy(image.copy()).permute(2, 0, 1))
        found = live(pixels.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
        for name, stride in self._strides.items():
            there = torch.from_numpy(np.array(stored[name], np.float32))
            mirrored = apply_field(view, there, stride, stride).numpy()
            mask = view_mask(view, canvas, valid, stride)[0].numpy()
            self._sums[name] += float(cosines(found[name], mirrored)[mask].sum())
            self._positions[name] += int(mask.sum())

    def result(self) -> dict[str, float]:
        """Return the mean cosine of each, over the positions that show a frame."""
        return {name: total / max(1, self._positions[name]) for name, total in self._sums.items()}


def recommend_mirrors(found: Mapping[str, float]) -> list[str]:
    """Return what these cosines advise for `train.view.flip`, a line for each of the features."""
    lines = []
    for name, cosine in found.items():
        says = (
            f"flip: {name} of a mirrored frame and its own, mirrored, have a mean cosine of "
            f"{cosine:.3f}"
        )
        if cosine < ALIKE:
            says += (
                f", below {ALIKE:g}: set train.view.flip = false; mirrored frames are a source of "
                'kind = "views", flip "always"'
            )
        lines.append(says)
    return lines
