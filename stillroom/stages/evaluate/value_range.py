"""The range of values of which some are missing, in pieces that merge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Range:
    """Of values, 0 where there is none: positions in all, those with a value, and its extremes."""

    positions: int = 0
    present: int = 0
    least: float = math.inf
    greatest: float = -math.inf
    total: float = 0.0

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Range:
        """Return that of one piece; 0 stands for no value."""
        there = values[values != 0].astype(np.float64)
        if not there.size:
            return cls(values.size)
        low, high, total = map(float, (there.min(), there.max(), there.sum()))
        return cls(values.size, there.size, low, high, total)

    def merge(self, other: Range) -> Range:
        """Return that of both together."""
        return Range(
            self.positions + other.positions,
            self.present + other.present,
            min(self.least, other.least),
            max(self.greatest, other.greatest),
            self.total + other.total,
        )

    def to_dict(self) -> dict[str, float | None]:
        """Return it as JSON."""
        some = self.present > 0
        return {
            "present": self.present / self.positions if self.positions else None,
            "least": self.least if some else None,
            "mean": self.total / self.present if some else None,
            "greatest": self.greatest if some else None,
        }
