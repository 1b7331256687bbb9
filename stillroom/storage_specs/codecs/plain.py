"""Codecs that keep numbers as they are, or as float16."""

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
    check_within,
    finite_float32,
    into,
)
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

HALF_MAX = 65504.0
FLOAT_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Raw(Codec):
    """uint8 as it is: frames and labels."""

    name: ClassVar[str] = "raw"
    stored: ClassVar[str] = "|u1"
    examples: ClassVar[tuple[Example, ...]] = (Example(0, 255, dtype="uint8"),)

    def encode(self, x: Array) -> Encoded:
        """Keep `x`; ArtifactError unless it is uint8."""
        if x.dtype != np.uint8:
            raise ArtifactError(f"codec raw takes uint8, got {x.dtype}")
        return Encoded(x, {})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """The stored uint8."""
        return into(out, values)

    def bound(self, x: Array) -> float:
        """Nothing is lost."""
        return 0.0


@dataclass(frozen=True)
class Exact(Codec):
    """float32 as it is."""

    name: ClassVar[str] = "exact"
    stored: ClassVar[str] = "<f4"
    examples: ClassVar[tuple[Example, ...]] = (Example(-FLOAT_MAX, FLOAT_MAX),)

    def encode(self, x: Array) -> Encoded:
        """Keep float32; ArtifactError where a value is not finite."""
        return Encoded(finite_float32(x).astype(self.stored, copy=False), {})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """The stored float32."""
        return into(out, values.astype(np.float32, copy=False))

    def bound(self, x: Array) -> float:
        """Nothing is lost of a float32 array."""
        return 0.0


@dataclass(frozen=True)
class Half(Codec):
    """float16: eleven bits of every value, up to 65504."""

    name: ClassVar[str] = "half"
    stored: ClassVar[str] = "<f2"
    examples: ClassVar[tuple[Example, ...]] = (Example(-HALF_MAX, HALF_MAX),)

    def encode(self, x: Array) -> Encoded:
        """Round to float16; ArtifactError where a value is not finite or above 65504."""
        floats = finite_float32(x)
        check_within(floats, -HALF_MAX, HALF_MAX, "codec half holds up to 65504")
        return Encoded(floats.astype(self.stored), {})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """The stored values as float32."""
        return values.astype(np.float32) if out is None else into(out, values)

    def bound(self, x: Array) -> NDArray[np.float32]:
        """Half a unit in the last place: |x| / 2048, or half the smallest float16."""
        magnitude = np.abs(finite_float32(x))
        return np.maximum(magnitude * np.float32(2.0**-11), np.float32(2.0**-25))
