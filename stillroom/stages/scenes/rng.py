"""Random numbers that are the same on every machine and under every numpy.

numpy promises the raw output of its bit generators for ever, but not what `Generator` makes of
it, nor that two machines' `exp` and `sin` agree in the last bit. So scenes take raw bits only
and computes with + - * / floor and comparisons, which IEEE 754 fixes; `wave` stands in for a sine.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

T = TypeVar("T")


class Rng:
    """A stream of random numbers named by a key of non-negative integers."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def unit(self) -> float:
        """Draw a number in [0, 1)."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        """Draw a number in [low, high)."""
        return low + (high - low) * self.unit()

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.unit() < probability

    def below(self, count: int) -> int:
        """Draw an integer in 0..count-1."""
        return int(self.unit() * count)

    def pick(self, choices: Sequence[T]) -> T:
        """Draw one of the choices."""
        return choices[self.below(len(choices))]

    def octets(self, count: int) -> NDArray[np.uint8]:
        """Draw `count` bytes."""
        raw = self._bits.random_raw(-(-count // 8))
        return np.asarray(raw, "<u8").view(np.uint8)[:count]


def wave(phase: float) -> float:
    """Compute a smooth wave of period 1 and range -1..1, made of parabolas."""
    part = phase - math.floor(phase)
    if part < 0.5:
        return 16.0 * part * (0.5 - part)
    return -16.0 * (part - 0.5) * (1.0 - part)
