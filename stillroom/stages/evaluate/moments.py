"""Means and variances by class, in pieces that merge.

Two pieces with n, mean and M2 = sum((x - mean)^2) merge by Chan, Golub and LeVeque, "Updating
Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979, eq. 2.1:

    d = mean_b - mean_a,   n = n_a + n_b
    mean = mean_a + d n_b / n,   M2 = M2_a + M2_b + d^2 n_a n_b / n
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Of vectors in groups: count (G,), mean (G, A), m2 (G, A); all float64."""

    count: Floats
    mean: Floats
    m2: Floats

    @classmethod
    def empty(cls, groups: int, channels: int) -> Moments:
        """Of nothing."""
        return cls(np.zeros(groups), np.zeros((groups, channels)), np.zeros((groups, channels)))

    @classmethod
    def of(cls, vectors: NDArray[np.floating], group: NDArray[np.integer], groups: int) -> Moments:
        """Of one piece.

        Args:
            vectors: (N, A)
            group: (N,), 0..groups-1; any other number is left out
        """
        if len(vectors) != len(group):
            raise ArtifactError(f"{len(vectors)} vectors in {len(group)} places")
        counted = group < groups
        wide, where = vectors[counted].astype(np.float64), group[counted].astype(np.int64)
        member = np.zeros((groups, len(where)))
        member[where, np.arange(len(where))] = 1
        count = member.sum(1)
        mean = member @ wide / np.maximum(count, 1)[:, None]
        wide -= mean[where]  # centred first: no difference of two large sums
        return cls(count, mean, member @ (wide * wide))

    def merge(self, other: Moments) -> Moments:
        """Of both together."""
        count = self.count + other.count
        some = np.maximum(count, 1)[:, None]
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * (other.count[:, None] / some),
            self.m2 + other.m2 + delta**2 * (self.count * other.count)[:, None] / some,
        )

    def total(self) -> Moments:
        """Of all groups as one."""
        whole = Moments.empty(1, self.mean.shape[1])
        for index in range(len(self.count)):
            one = slice(index, index + 1)
            whole = whole.merge(Moments(self.count[one], self.mean[one], self.m2[one]))
        return whole

    @property
    def variance(self) -> Floats:
        """M2 / count, (G, A): of the population, 0 where a group is empty."""
        return self.m2 / np.maximum(self.count, 1)[:, None]
