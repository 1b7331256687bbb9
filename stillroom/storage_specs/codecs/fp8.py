"""Features in eight-bit floats."""

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
    finite_float32,
    per_channel,
)
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 448.0
SMALLEST = 2.0**-9
_CODES = np.arange(127)
_EXPONENT, _MANTISSA = _CODES >> 3, _CODES & 7
MAGNITUDES = np.where(
    _EXPONENT == 0, _MANTISSA * SMALLEST, (8 + _MANTISSA) * 2.0 ** (_EXPONENT - 10.0)
).astype(np.float32)
"""The values of codes 0 to 126, ascending; 127 is E4M3's NaN and never stored."""


@dataclass(frozen=True)
class FP8(Codec):
    """Eight-bit floats E4M3: sign, four bits of exponent (bias 7), three of mantissa.

    value = scale[channel] * float, with scale such that the channel's extreme is 448

    Micikevicius et al., "FP8 Formats for Deep Learning", 2022, arXiv:2209.05433
    """

    name: ClassVar[str] = "fp8"
    stored: ClassVar[str] = "|u1"
    examples: ClassVar[tuple[Example, ...]] = (Example(-1e38, 1e38),)

    def side_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """One scale a channel."""
        return {"scale": shape[:1]}

    def encode(self, x: Array) -> Encoded:
        """Round to the nearest float; a channel of zeros has scale 0."""
        floats = finite_float32(x)
        if floats.ndim == 0:
            raise ArtifactError("codec fp8 takes arrays with a channel axis, got a single number")
        scale = _scale(floats)
        divisor = per_channel(np.where(scale > 0, scale, np.float32(1)), floats)
        magnitude = np.abs(floats) / divisor
        between = (MAGNITUDES[1:] + MAGNITUDES[:-1]) / 2
        codes = np.searchsorted(between, magnitude).astype(np.uint8)
        return Encoded(codes | ((floats < 0).astype(np.uint8) << 7), {"scale": scale})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """The value of each float: scale * float."""
        made = np.empty(values.shape, np.float32) if out is None else out
        np.take(_VALUES, values, out=made, mode="clip")
        made *= per_channel(side["scale"], values)
        return made

    def bound(self, x: Array) -> NDArray[np.float32]:
        """A sixteenth of the value, or half of the smallest float: the shape of `x`."""
        floats = finite_float32(x)
        half_smallest = per_channel(_scale(floats), floats) * np.float32(SMALLEST / 2)
        bound = np.maximum(np.abs(floats) * np.float32(1 / 16 + 2.0**-20), half_smallest)
        return np.asarray(bound * np.float32(1 + 2.0**-20) + np.float32(2.0**-140))


_VALUES = np.concatenate([MAGNITUDES, [0.0], -MAGNITUDES, [0.0]]).astype(np.float32)


def _scale(floats: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale of each channel: (C,)."""
    extreme = np.abs(floats).max(axis=tuple(range(1, floats.ndim)), initial=0)
    return np.asarray(extreme / np.float32(LARGEST))
