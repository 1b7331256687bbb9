"""Scores of surface normals: the angle to the true one, over all pixels of all frames together.

Mean and median in degrees, and the shares of pixels below 11.25, 22.5 and 30 degrees: Fouhey,
Gupta and Hebert, "Data-Driven 3D Primitives for Single Image Understanding", ICCV 2013, section 6.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIMITS = (11.25, 22.5, 30.0)
STEPS = 20  # a degree: the median is known to half of a step


@dataclass
class NormalsTally:
    """Counts of angles; two of them merge into those of both.

    Attributes:
        pixels, frames: that have been counted
        total: of the angles, in degrees
        below: pixels below each of LIMITS
        histogram: of the angles, in steps of 1 / STEPS degree
    """

    pixels: int = 0
    frames: int = 0
    total: float = 0.0
    below: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(LIMITS), np.int64))
    histogram: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(180 * STEPS + 1, np.int64)
    )

    def add(self, prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
        """Add a frame.

        Args:
            prediction, truth: (3, H, W), of any length; the zero vector of the truth: none, and of
                the prediction 90 degrees off, as a cosine of 0
        """
        known = (truth != 0).any(0)
        if not known.any():
            return
        ours, theirs = (one[:, known].astype(np.float64) for one in (prediction, truth))
        # Exact for small angles, where the cosine is flat.
        across = np.linalg.norm(np.cross(ours, theirs, axis=0), axis=0)
        angles = np.degrees(np.arctan2(across, (ours * theirs).sum(0)))
        angles[~ours.any(0)] = 90.0
        self.pixels += len(angles)
        self.frames += 1
        self.total += float(angles.sum())
        self.below += (angles[:, None] < LIMITS).sum(0)
        self.histogram += np.bincount((angles * STEPS).astype(int), minlength=180 * STEPS + 1)

    def merge(self, other: NormalsTally) -> None:
        """Take another's counts in."""
        self.pixels += other.pixels
        self.frames += other.frames
        self.total += other.total
        self.below += other.below
        self.histogram += other.histogram

    def scores(self) -> dict[str, float]:
        """Return the scores by name; angles are better lower, shares higher."""
        half = int(np.searchsorted(self.histogram.cumsum(), self.pixels / 2))
        shares = (self.below / self.pixels).tolist()
        return {
            "mean_angle": self.total / self.pixels,
            "median_angle": (half + 0.5) / STEPS,
            **{f"within_{limit:g}": share for limit, share in zip(LIMITS, shares, strict=True)},
        }
