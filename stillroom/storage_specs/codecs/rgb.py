"""A lossless codec for photographs: half the bytes of their pixels, once zstd has packed them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stillroom.storage_specs.codecs.codec import Array, Codec, Encoded, Example, Side
from stillroom.storage_specs.errors import ArtifactError


@dataclass(frozen=True)
class Rgb(Codec):
    """uint8 (y, x, rgb): red and blue as their difference from green, then each from the row above.

    red' = red - green + 128, blue' = blue - green + 128, modulo 2^8; differences from above and
    their form as in `prediction`.
    """

    name: ClassVar[str] = "rgb"
    stored: ClassVar[str] = "|u1"
    examples: ClassVar[tuple[Example, ...]] = (Example(0, 255, dtype="uint8", last=3),)

    @property
    def tileable(self) -> bool:
        """No: the first row of a tile would need the one above it."""
        return False

    def encode(self, x: Array) -> Encoded:
        """Take the differences; ArtifactError unless `x` is that."""
        if x.dtype != np.uint8 or x.ndim != 3 or x.shape[2] != 3:
            raise ArtifactError(f"codec rgb takes uint8, got {x.dtype}; (y, x, 3), got {x.shape}")
        steps = np.array(x, order="C")
        steps[..., ::2] += 128 - x[..., 1:2]
        steps[1:] -= steps[:-1].copy()
        return Encoded((steps << 1) ^ -(steps >> 7), {})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """The pixels; `out` may be `values`."""
        from stillroom.storage_specs.codecs.kernels import undo_rgb

        made = np.empty(values.shape, np.uint8) if out is None else out
        undo_rgb(values, made)
        return made

    def undo_prediction(self, values: Array) -> Array:
        """The pixels."""
        return self.decode(values, {})

    def bound(self, x: Array) -> float:
        """Nothing is lost."""
        return 0.0
