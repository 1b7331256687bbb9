"""A codec for components of unit vectors: equal steps from -1 to 1, and 0 exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stillroom.storage_specs.codecs.codec import (
    UNIT_SLACK,
    Array,
    Codec,
    Encoded,
    Example,
    Side,
    check_within,
    finite_float32,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZERO = 127  # the step of 0, and steps from it to 1


@dataclass(frozen=True)
class Signed(Codec):
    """uint8 steps of 1/127 from -1 to 1; a unit vector keeps its direction to 0.4 degrees.

    value = (step - 127) / 127
    """

    name: ClassVar[str] = "signed"
    stored: ClassVar[str] = "|u1"
    examples: ClassVar[tuple[Example, ...]] = (Example(-1, 1, zero=True),)

    def encode(self, x: Array) -> Encoded:
        """Round to the nearest step; ArtifactError outside -1..1, but for the last digits."""
        floats = finite_float32(x)
        check_within(floats, -1 - UNIT_SLACK, 1 + UNIT_SLACK, "codec signed holds -1 to 1")
        steps = np.rint(np.clip(floats, -1, 1) * np.float32(ZERO)) + ZERO
        return Encoded(steps.astype(np.uint8), {})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """The value of each step: (step - 127) / 127."""
        made: NDArray[np.float32] = np.subtract(values, np.float32(ZERO), out=out, dtype=np.float32)
        return np.divide(made, np.float32(ZERO), out=made)

    def bound(self, x: Array) -> NDArray[np.float32]:
        """Half a step, and what lies outside -1..1; 0 is kept."""
        floats = finite_float32(x)
        beyond = np.maximum(np.abs(floats) - 1, 0)
        return np.where(floats == 0, 0, np.float32(1 / (2 * ZERO) + 1e-6) + beyond)
