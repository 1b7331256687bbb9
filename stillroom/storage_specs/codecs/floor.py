"""A codec for probabilities that are compared with a threshold: rounded down, never up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stillroom.storage_specs.codecs.codec import (
    Array,
    Codec,
    Encoded,
    Example,
    Side,
)
from stillroom.storage_specs.codecs.quantised import probabilities, probability_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS = 200  # to 1: all thresholds of two decimals, and those that end in 5 in the third
VALUES = (np.arange(STEPS + 2) / STEPS).astype(np.float32)  # of steps; the last is out of reach


@dataclass(frozen=True)
class Floor(Codec):
    """Probabilities in uint8 steps of 1/200, the greatest that is not above the value.

    So the stored value reaches a threshold t = n / 200 exactly where the value itself does, and
    a threshold between two steps where the value reaches the upper one.
    """

    name: ClassVar[str] = "floor"
    stored: ClassVar[str] = "|u1"
    examples: ClassVar[tuple[Example, ...]] = (Example(0, 1),)

    def encode(self, x: Array) -> Encoded:
        """Round down; ArtifactError outside 0..1 (but for float32's last digits)."""
        floats = probabilities(x, self.name)
        steps = (floats * np.float32(STEPS)).astype(np.uint8)
        # The product is rounded, and may have come one step too far, or stopped one short.
        steps -= VALUES[steps] > floats
        steps += VALUES[steps + 1] <= floats
        return Encoded(steps, {})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """The value of each step: step / 200."""
        made: NDArray[np.float32] = np.divide(values, np.float32(STEPS), out=out, dtype=np.float32)
        return made

    def bound(self, x: Array) -> NDArray[np.float32]:
        """A step, and what lies outside 0..1."""
        return probability_bound(x, 1 / STEPS)
