"""Numbers into fewer bits: one frame's array to what Zarr stores, and back.

A codec works on one frame, above Zarr, so that any Zarr reader opens the stored arrays; the few
numbers needed to undo it lie beside them as side arrays (`logits_scale`, `logits_offset`).
Decode before any geometry: quantised values are never interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from stillroom.storage_specs.dequantise import affine
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

HALF_MAX = 65504.0
FLOW_STEPS = 64  # a pixel
FLOW_MAX = 32767 / FLOW_STEPS
UNIT_SLACK = 1e-5  # a softmax in float32 may end this far above 1


@dataclass(frozen=True)
class Encoded:
    """What is stored of one frame's array.

    values: same shape as the array, in the codec's `stored` dtype
    side: float32 arrays by suffix, in the shapes of `side_shapes`
    """

    values: NDArray[Any]
    side: dict[str, NDArray[np.float32]]


class Codec(Protocol):
    """How one frame's array is stored. Implementations are frozen dataclasses."""

    name: ClassVar[str]
    stored: ClassVar[str]

    def side_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Suffix and shape of each side array of an array of this shape."""

    def encode(self, x: NDArray[Any]) -> Encoded:
        """Quantise one frame's array; ArtifactError where it does not fit the codec."""

    def decode(
        self,
        values: NDArray[Any],
        side: Mapping[str, NDArray[np.float32]],
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Undo `encode`, up to `bound`.

        out: C-contiguous, of the decoded shape and dtype: filled and returned; without it the
            result is a new array, or `values` itself where nothing is to be undone
        """

    def bound(self, x: NDArray[Any]) -> NDArray[np.float32] | float:
        """Largest absolute error of a round trip of `x`, broadcastable to it."""

    def to_dict(self) -> dict[str, Any]:
        """The codec as JSON; `codec_from_dict` reads it."""


class _NoSide:
    """What codecs without side arrays and options have in common."""

    name: ClassVar[str]

    def side_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {}

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name}


@dataclass(frozen=True)
class Raw(_NoSide):
    """uint8 as it is: frames and labels."""

    name: ClassVar[str] = "raw"
    stored: ClassVar[str] = "|u1"

    def encode(self, x: NDArray[Any]) -> Encoded:
        """Keep `x`; ArtifactError unless it is uint8."""
        if x.dtype != np.uint8:
            raise ArtifactError(f"codec raw takes uint8, got {x.dtype}")
        return Encoded(x, {})

    def decode(
        self,
        values: NDArray[Any],
        side: Mapping[str, NDArray[np.float32]],
        out: NDArray[Any] | None = None,
    ) -> NDArray[np.uint8]:
        """The stored uint8."""
        return _filled(out, values)

    def bound(self, x: NDArray[Any]) -> float:
        """Nothing is lost."""
        return 0.0


@dataclass(frozen=True)
class Exact(_NoSide):
    """float32 as it is."""

    name: ClassVar[str] = "exact"
    stored: ClassVar[str] = "<f4"

    def encode(self, x: NDArray[Any]) -> Encoded:
        """Keep float32; ArtifactError where a value is not finite."""
        return Encoded(_finite_float32(x).astype(self.stored, copy=False), {})

    def decode(
        self,
        values: NDArray[Any],
        side: Mapping[str, NDArray[np.float32]],
        out: NDArray[Any] | None = None,
    ) -> NDArray[np.float32]:
        """The stored float32."""
        return _filled(out, values.astype(np.float32, copy=False))

    def bound(self, x: NDArray[Any]) -> float:
        """Nothing is lost of a float32 array."""
        return 0.0


@dataclass(frozen=True)
class Half(_NoSide):
    """float16: eleven bits of every value, up to 65504."""

    name: ClassVar[str] = "half"
    stored: ClassVar[str] = "<f2"

    def encode(self, x: NDArray[Any]) -> Encoded:
        """Round to float16; ArtifactError where a value is not finite or above 65504."""
        floats = _finite_float32(x)
        _within(floats, -HALF_MAX, HALF_MAX, "codec half holds up to 65504")
        return Encoded(floats.astype(self.stored), {})

    def decode(
        self,
        values: NDArray[Any],
        side: Mapping[str, NDArray[np.float32]],
        out: NDArray[Any] | None = None,
    ) -> NDArray[np.float32]:
        """The stored values as float32."""
        return values.astype(np.float32) if out is None else _filled(out, values)

    def bound(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Half a unit in the last place: |x| / 2048, or half the smallest float16."""
        magnitude = np.abs(_finite_float32(x))
        return np.maximum(magnitude * np.float32(2.0**-11), np.float32(2.0**-25))


@dataclass(frozen=True)
class Byte:
    """uint8 steps between the least and the greatest value of each channel (axis 0).

    value = scale[channel] * stored + offset[channel], in float32
    """

    name: ClassVar[str] = "byte"
    stored: ClassVar[str] = "|u1"

    def side_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """One scale and one offset a channel."""
        return {"scale": shape[:1], "offset": shape[:1]}

    def encode(self, x: NDArray[Any]) -> Encoded:
        """Quantise each channel on its own range; a constant channel has scale 0 and is exact."""
        floats = _finite_float32(x)
        if floats.ndim == 0:
            raise ArtifactError("codec byte takes arrays with a channel axis, got a single number")
        scale, offset = _affine(floats)
        step = np.where(scale > 0, scale, np.float32(1))
        steps = (floats - _per_channel(offset, floats)) / _per_channel(step, floats)
        steps[scale == 0] = 0
        np.rint(steps, out=steps)
        np.clip(steps, 0, 255, out=steps)
        return Encoded(steps.astype(np.uint8), {"scale": scale, "offset": offset})

    def decode(
        self,
        values: NDArray[Any],
        side: Mapping[str, NDArray[np.float32]],
        out: NDArray[Any] | None = None,
    ) -> NDArray[np.float32]:
        """The value of each step: scale * stored + offset."""
        decoded = np.empty(values.shape, np.float32) if out is None else out
        affine(values, side["scale"], side["offset"], decoded)
        return decoded

    def bound(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Half a step of each channel and the rounding of float32 arithmetic: (C, 1, ..., 1)."""
        floats = _finite_float32(x)
        scale, _ = _affine(floats)
        # 255 steps, each product and each sum rounded once, and the quotient on the way in.
        rounding = scale * np.float32(255 * 2.0**-21)
        extreme = np.abs(floats).max(axis=tuple(range(1, floats.ndim)), initial=0)
        bound = scale / 2 + rounding + extreme * np.float32(2.0**-23) + np.float32(2.0**-140)
        return _per_channel(bound.astype(np.float32), floats)

    def to_dict(self) -> dict[str, Any]:
        """The codec as JSON."""
        return {"name": self.name}


@dataclass(frozen=True)
class Unit(_NoSide):
    """Probabilities in uint8 steps of 1/255."""

    name: ClassVar[str] = "unit"
    stored: ClassVar[str] = "|u1"

    def encode(self, x: NDArray[Any]) -> Encoded:
        """Round to the nearest step; ArtifactError outside 0..1 (but for float32's last digits)."""
        floats = _finite_float32(x)
        _within(floats, -UNIT_SLACK, 1 + UNIT_SLACK, "codec unit holds 0 to 1")
        steps = np.rint(np.clip(floats, 0, 1) * np.float32(255))
        return Encoded(steps.astype(np.uint8), {})

    def decode(
        self,
        values: NDArray[Any],
        side: Mapping[str, NDArray[np.float32]],
        out: NDArray[Any] | None = None,
    ) -> NDArray[np.float32]:
        """The value of each step: stored / 255."""
        decoded: NDArray[np.float32] = np.divide(values, np.float32(255), out=out, dtype=np.float32)
        return decoded

    def bound(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Half a step, and what lies outside 0..1."""
        floats = _finite_float32(x)
        outside = np.maximum(np.maximum(-floats, floats - 1), 0)
        return (outside + np.float32(0.5 / 255 + 2.0**-22)).astype(np.float32)


@dataclass(frozen=True)
class Flow(_NoSide):
    """Displacements in int16 steps of 1/64 pixel, up to 511.98 pixels."""

    name: ClassVar[str] = "flow"
    stored: ClassVar[str] = "<i2"

    def encode(self, x: NDArray[Any]) -> Encoded:
        """Round to the nearest step; ArtifactError above 511.98 pixels."""
        floats = _finite_float32(x)
        _within(floats, -FLOW_MAX, FLOW_MAX, f"codec flow holds up to {FLOW_MAX:.2f} pixels")
        return Encoded(np.rint(floats * np.float32(FLOW_STEPS)).astype(self.stored), {})

    def decode(
        self,
        values: NDArray[Any],
        side: Mapping[str, NDArray[np.float32]],
        out: NDArray[Any] | None = None,
    ) -> NDArray[np.float32]:
        """The value of each step: stored / 64."""
        decoded: NDArray[np.float32] = np.multiply(
            values, 1 / FLOW_STEPS, out=out, dtype=np.float32
        )
        return decoded

    def bound(self, x: NDArray[Any]) -> float:
        """1/128 pixel; both scalings are by a power of two and exact."""
        return 0.5 / FLOW_STEPS


CODECS: dict[str, type[Raw | Exact | Half | Byte | Unit | Flow]] = {
    "raw": Raw,
    "exact": Exact,
    "half": Half,
    "byte": Byte,
    "unit": Unit,
    "flow": Flow,
}


def codec_from_dict(document: Mapping[str, Any] | str) -> Codec:
    """The codec of a `to_dict` or of a bare name.

    Raises:
        ConfigError: an unknown name or option.
    """
    options = {"name": document} if isinstance(document, str) else dict(document)
    name = options.pop("name", None)
    if name not in CODECS:
        raise ConfigError(f"unknown codec {name!r}; known: {', '.join(CODECS)}")
    if options:
        raise ConfigError(f"codec {name!r} has no options, got {', '.join(map(repr, options))}")
    return CODECS[name]()


def _finite_float32(x: NDArray[Any]) -> NDArray[np.float32]:
    if x.dtype.kind != "f":
        raise ArtifactError(f"expected floating-point values, got {x.dtype}")
    with np.errstate(over="ignore"):
        floats = np.asarray(x, dtype=np.float32)
    if not np.isfinite(floats).all():
        _refuse(floats, ~np.isfinite(floats), "not finite")
    return floats


def _within(floats: NDArray[np.float32], low: float, high: float, rule: str) -> None:
    if floats.size and not (low <= floats.min() and floats.max() <= high):
        worst = float(floats.flat[np.abs(floats).argmax()])
        _refuse(floats, (floats < low) | (floats > high), f"out of range ({rule}; got {worst:g})")


def _refuse(floats: NDArray[np.float32], faulty: NDArray[np.bool_], what: str) -> None:
    """Raise ArtifactError that counts the faulty values and names the first channel with one."""
    where = ""
    if floats.ndim == 3:
        channel = int(faulty.reshape(len(floats), -1).any(axis=1).argmax())
        where = f", first in channel {channel}"
    raise ArtifactError(f"{int(faulty.sum())} of {floats.size} values are {what}{where}")


def _affine(floats: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and offset of each channel: (C,), (C,)."""
    if floats.size == 0:
        return np.zeros(len(floats), np.float32), np.zeros(len(floats), np.float32)
    flat = floats.reshape(len(floats), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    scale = ((high.astype(np.float64) - low) / 255).astype(np.float32)
    with np.errstate(over="ignore"):
        top = scale * np.float32(255) + low
    # A range wider than float32 would decode to infinity.
    if not np.isfinite(top).all():
        channel = int((~np.isfinite(top)).argmax())
        raise ArtifactError(
            f"channel {channel} spans {low[channel]:g} to {high[channel]:g}, "
            "more than float32 can tell apart; codec exact keeps it"
        )
    return scale, low


def _filled(out: NDArray[Any] | None, values: NDArray[Any]) -> NDArray[Any]:
    if out is None or out is values:
        return values
    np.copyto(out, values)
    return out


def _per_channel(numbers: NDArray[np.float32], like: NDArray[Any]) -> NDArray[np.float32]:
    return numbers.reshape(-1, *(1,) * (like.ndim - 1))  # (C, 1, ..., 1)
