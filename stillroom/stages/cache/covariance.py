"""Mean and covariance of many vectors, in pieces that merge; what a PCA would leave of them.

Two pieces with n, mean and M2 = sum((x - mean) (x - mean)^T) merge as in Chan, Golub and LeVeque,
"Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979, eq. 2.1:

    d = mean_b - mean_a,   M2 = M2_a + M2_b + d d^T n_a n_b / n
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Covariance:
    """Of `count` vectors: mean (A,) and m2 (A, A), both float64."""

    count: int
    mean: Floats
    m2: Floats

    @classmethod
    def empty(cls, channels: int) -> Covariance:
        """Return that of nothing."""
        return cls(0, np.zeros(channels), np.zeros((channels, channels)))

    @classmethod
    def of(cls, vectors: NDArray[np.floating]) -> Covariance:
        """Return that of one piece, (N, A)."""
        if not len(vectors):
            return cls.empty(vectors.shape[1])
        wide = vectors.astype(np.float64)
        mean = wide.mean(axis=0)
        wide -= mean  # centred first: no difference of two large sums
        return cls(len(wide), mean, wide.T @ wide)

    def merge(self, other: Covariance) -> Covariance:
        """Return that of both together."""
        count = self.count + other.count
        if not count:
            return self
        delta = other.mean - self.mean
        return Covariance(
            count,
            self.mean + delta * (other.count / count),
            self.m2
            + other.m2
            + np.multiply.outer(delta, delta) * (self.count * other.count / count),
        )

    @property
    def variance(self) -> float:
        """Mean over the channels of their variance (of the population)."""
        return float(np.trace(self.m2)) / max(1, self.count * len(self.mean))

    def left_by_pca(self, components: int) -> float:
        """Return the share of the squared distances from the mean that so many components miss.

        1 - (sum of the largest eigenvalues) / (sum of all)
        """
        values = np.linalg.eigvalsh(self.m2)[::-1].clip(min=0)
        total = values.sum()
        return float(values[components:].sum() / total) if total > 0 else 0.0
