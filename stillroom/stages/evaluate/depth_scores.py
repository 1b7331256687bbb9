"""Scores of depth, over all pixels of all frames together that have a true one.

With predicted depth p_i and true depth d_i, both in metres, and N pixels:

    rel = 1/N sum |p_i - d_i| / d_i        rms = sqrt(1/N sum (p_i - d_i)^2)
    log10 = 1/N sum |log10 p_i - log10 d_i|
    delta_k = share of pixels with max(p_i / d_i, d_i / p_i) < 1.25^k
    silog = mean over frames of the standard deviation of log p_i - log d_i in the frame

Eigen et al., "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network", NeurIPS
2014, section 4.2 and, for silog, the root of eq. 1; arXiv:1406.2283. Some code takes the mean of
the frames' scores instead, which weighs the pixels of a frame with holes higher.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP = 1.25
NEAREST = 1e-3  # metres: what a model may say that takes 0 for "none"


@dataclass
class DepthTally:
    """Sums over the pixels of frames; two of them merge into those of both.

    Attributes:
        pixels, frames: that have been counted
        sums: of |p - d| / d, |log10 p - log10 d|, (p - d)^2 and, of frames, silog
        right: pixels within 1.25, 1.25^2, 1.25^3
    """

    pixels: int = 0
    frames: int = 0
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(4))
    right: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))

    def add(self, prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
        """Add a frame.

        Args:
            prediction: (1, H, W) metres
            truth: (H, W) metres, 0 where there is none
        """
        known = truth > 0
        if not known.any():
            return
        p = np.maximum(prediction[0][known].astype(np.float64), NEAREST)
        d = truth[known].astype(np.float64)
        logs = np.log(p / d)
        self.pixels += len(d)
        self.frames += 1
        self.sums += [
            (np.abs(p - d) / d).sum(),
            np.abs(logs).sum() / math.log(10),
            np.square(p - d).sum(),
            logs.std(),
        ]
        limits = np.log(STEP) * np.arange(1, 4)
        self.right += (np.abs(logs)[:, None] < limits).sum(0)

    def merge(self, other: DepthTally) -> None:
        """Take another's counts in."""
        self.pixels += other.pixels
        self.frames += other.frames
        self.sums += other.sums
        self.right += other.right

    def scores(self) -> dict[str, float]:
        """Return the scores by name; errors are better lower, the deltas higher."""
        rel, log10, square, silog = (self.sums / [*[self.pixels] * 3, self.frames]).tolist()
        deltas = (self.right / self.pixels).tolist()
        return {
            "rel": rel,
            "log10": log10,
            "rms": math.sqrt(square),
            "silog": silog,
            **{f"delta{k}": share for k, share in enumerate(deltas, 1)},
        }
