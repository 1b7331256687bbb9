"""A codec for positive numbers of many magnitudes, some of them unknown: depth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stillroom.storage_specs.codecs.codec import (
    Array,
    Codec,
    Encoded,
    Example,
    Side,
    finite_float32,
    into,
    refuse,
)
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAST = 65535


@dataclass(frozen=True)
class Log(Codec):
    """uint16 steps of equal ratio from `low` to `high`; 0 stands for no value.

    value = low * (high / low) ** ((step - 1) / 65534), and 0 for step 0
    """

    low: float = 0.1
    high: float = 1000.0

    name: ClassVar[str] = "log"
    stored: ClassVar[str] = "<u2"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(0.1, 1000, zero=True),
        Example(0.3, 0.7, {"low": 0.3, "high": 0.7}, zero=True),
    )

    def __post_init__(self) -> None:
        for option in ("low", "high"):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"codec 'log': {option} = {value!r}; expected a number")
            object.__setattr__(self, option, float(value))
        if not 1e-30 <= self.low < self.high <= 1e30:
            raise ConfigError(
                f"codec 'log': low = {self.low:g}, high = {self.high:g}; expected 0 < low < high"
            )

    @property
    def log_ratio(self) -> float:
        """Logarithm of the ratio of two neighbouring values."""
        return math.log(self.high / self.low) / (LAST - 1)

    def encode(self, x: Array) -> Encoded:
        """Round to the nearest step; ArtifactError for what is neither 0 nor in low..high."""
        floats = finite_float32(x)
        there = floats != 0
        faulty = there & ((floats < np.float32(self.low)) | (floats > np.float32(self.high)))
        if faulty.any():
            span = f"{self.low:g} to {self.high:g}"
            rule = f"codec log holds {span}, and 0 for no value; got {floats[faulty][0]:g}"
            refuse(floats, faulty, f"out of range ({rule})")
        ratios = np.where(there, floats, self.low).astype(np.float64) / self.low
        steps = 1 + np.rint(np.log(ratios) / self.log_ratio).clip(0, LAST - 1)
        return Encoded(np.where(there, steps, 0).astype(self.stored), {})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """The value of each step."""
        return into(out, _values(self.low, self.high)[values])

    def bound(self, x: Array) -> NDArray[np.float32]:
        """Half a step of each value, relative to it, and float32 rounding; 0 is kept."""
        relative = math.expm1(self.log_ratio / 2) + 2.0**-23
        return np.abs(finite_float32(x)) * np.float32(relative)


@lru_cache(maxsize=8)
def _values(low: float, high: float) -> NDArray[np.float32]:
    """The value of every step, (65536,)."""
    exponents = np.arange(LAST) / (LAST - 1)
    return np.concatenate([[0], low * (high / low) ** exponents]).astype(np.float32)
