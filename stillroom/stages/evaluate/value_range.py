"""The range of values of which some are missing, in pieces that merge."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Range:
    """Of values above 0, or 0 where there is none.

    Attributes:
        positions, present: how many there are, and how many have a value
        tenths: how many lie from 10 ** (k / 10) up to the next, by k
        frames: how many pieces have any
    """

    positions: int = 0
    present: int = 0
    least: float = math.inf
    greatest: float = -math.inf
    total: float = 0.0
    tenths: Counter[int] = field(default_factory=Counter)
    frames: int = 0

    @classmethod
    def of(cls, values: NDArray[Any]) -> Range:
        """Return that of one piece; 0 stands for no value, and so does what is below."""
        there = values[values > 0].astype(np.float64)
        if not there.size:
            return cls(values.size)
        low, high, total = map(float, (there.min(), there.max(), there.sum()))
        places, counts = np.unique(np.floor(10 * np.log10(there)).astype(int), return_counts=True)
        tenths = Counter(dict(zip(places.tolist(), counts.tolist(), strict=True)))
        return cls(values.size, there.size, low, high, total, tenths, frames=1)

    def merge(self, other: Range) -> Range:
        """Return that of both together."""
        return Range(
            self.positions + other.positions,
            self.present + other.present,
            min(self.least, other.least),
            max(self.greatest, other.greatest),
            self.total + other.total,
            self.tenths + other.tenths,
            self.frames + other.frames,
        )

    def quantile(self, share: float) -> float:
        """Return the value that a share of those present lie below, to a fraction of a tenth."""
        below, wanted = 0, share * self.present
        for tenth in sorted(self.tenths):
            count = self.tenths[tenth]
            if below + count >= wanted:
                low = max(10 ** (tenth / 10), self.least)
                high = min(10 ** ((tenth + 1) / 10), self.greatest)
                return float(low * (high / low) ** ((wanted - below) / count))
            below += count
        return self.greatest

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON; the histogram by the least value of each tenth of a decade."""
        some = self.present > 0
        return {
            "present": self.present / self.positions if self.positions else None,
            "frames": self.frames,
            "least": self.least if some else None,
            "mean": self.total / self.present if some else None,
            "greatest": self.greatest if some else None,
            **{
                f"quantile_{share:02.0f}": self.quantile(share / 100) if some else None
                for share in (5, 50, 95)
            },
            "histogram": {f"{10 ** (k / 10):.4g}": self.tenths[k] for k in sorted(self.tenths)},
        }


def merged(one: Mapping[str, Range], other: Mapping[str, Range]) -> dict[str, Range]:
    """Merge the ranges of equal names."""
    both = dict.fromkeys([*one, *other])
    return {name: one.get(name, Range()).merge(other.get(name, Range())) for name in both}
