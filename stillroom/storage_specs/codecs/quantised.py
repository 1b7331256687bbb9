"""Codecs with equal steps: bytes between a channel's extremes, probabilities, displacements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from stillroom.storage_specs.codecs.codec import (
    UNIT_SLACK,
    Array,
    Codec,
    Encoded,
    Example,
    Side,
    check_channels,
    check_within,
    finite_float32,
    per_channel,
)
from stillroom.storage_specs.codecs.prediction import differences_of, steps_of
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOW_STEPS = 64  # a pixel
UNIT_STEPS = 255  # to 1
FLOW_MAX = 32767 / FLOW_STEPS


@dataclass(frozen=True)
class Byte(Codec):
    """uint8 steps between the least and the greatest value of each channel (axis 0).

    value = scale[channel] * step + offset[channel], in float32

    Attributes:
        predict: "median" stores differences from the neighbours: smaller, slower to read
    """

    predict: Literal["median"] | None = None

    name: ClassVar[str] = "byte"
    stored: ClassVar[str] = "|u1"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(-1e38, 1e38),
        Example(-1e38, 1e38, {"predict": "median"}),
    )

    def __post_init__(self) -> None:
        _check_predictor(self.name, self.predict, "median")

    def side_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """One scale and one offset a channel."""
        return {"scale": shape[:1], "offset": shape[:1]}

    def encode(self, x: Array) -> Encoded:
        """Quantise each channel on its own range; a constant channel has scale 0 and is exact."""
        floats = finite_float32(x)
        if floats.ndim == 0:
            raise ArtifactError("codec byte takes arrays with a channel axis, got a single number")
        scale, offset = _affine(floats)
        step = np.where(scale > 0, scale, np.float32(1))
        steps = (floats - per_channel(offset, floats)) / per_channel(step, floats)
        steps[scale == 0] = 0
        np.rint(steps, out=steps)
        np.clip(steps, 0, 255, out=steps)
        values = steps.astype(np.uint8)
        if self.predict is not None:
            check_channels(floats, f"byte with predict = {self.predict!r}")
            values = differences_of(values, self.predict)
        return Encoded(values, {"scale": scale, "offset": offset})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """The value of each step: scale * step + offset."""
        from stillroom.storage_specs.codecs.kernels import affine, undo_median

        made = np.empty(values.shape, np.float32) if out is None else out
        if self.predict is not None:
            every = np.arange(256, dtype=np.float32)
            undo_median(values, every * side["scale"][:, None] + side["offset"][:, None], 255, made)
        elif values.size:
            rows = (len(values), -1)
            affine(values.reshape(rows), side["scale"], side["offset"], made.reshape(rows))
        return made

    def undo_prediction(self, values: Array) -> Array:
        """The steps."""
        return values if self.predict is None else steps_of(values, self.predict)

    def bound(self, x: Array) -> NDArray[np.float32]:
        """Half a step of each channel and the rounding of float32 arithmetic: (C, 1, ..., 1)."""
        floats = finite_float32(x)
        scale, _ = _affine(floats)
        # 255 steps, each product and each sum rounded once, and the quotient on the way in.
        rounding = scale * np.float32(255 * 2.0**-21)
        extreme = np.abs(floats).max(axis=tuple(range(1, floats.ndim)), initial=0)
        bound = scale / 2 + rounding + extreme * np.float32(2.0**-23) + np.float32(2.0**-140)
        return per_channel(bound.astype(np.float32), floats)


def probabilities(x: Array, codec: str) -> NDArray[np.float32]:
    """The values as float32 within 0..1; ArtifactError outside (but for float32's last digits)."""
    floats = finite_float32(x)
    check_within(floats, -UNIT_SLACK, 1 + UNIT_SLACK, f"codec {codec} holds 0 to 1")
    return np.clip(floats, 0, 1)


def probability_bound(x: Array, error: float) -> NDArray[np.float32]:
    """The error of a codec of probabilities, and what lies outside 0..1."""
    floats = finite_float32(x)
    outside = np.maximum(np.maximum(-floats, floats - 1), 0)
    return (outside + np.float32(error + 2.0**-22)).astype(np.float32)


@dataclass(frozen=True)
class Unit(Codec):
    """Probabilities in uint8 steps of 1/255."""

    name: ClassVar[str] = "unit"
    stored: ClassVar[str] = "|u1"
    examples: ClassVar[tuple[Example, ...]] = (Example(0, 1),)

    def encode(self, x: Array) -> Encoded:
        """Round to the nearest step; ArtifactError outside 0..1 (but for float32's last digits)."""
        steps = np.rint(probabilities(x, self.name) * np.float32(UNIT_STEPS))
        return Encoded(steps.astype(np.uint8), {})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """The value of each step: step / 255."""
        made: NDArray[np.float32] = np.divide(
            values, np.float32(UNIT_STEPS), out=out, dtype=np.float32
        )
        return made

    def bound(self, x: Array) -> NDArray[np.float32]:
        """Half a step, and what lies outside 0..1."""
        return probability_bound(x, 0.5 / UNIT_STEPS)


@dataclass(frozen=True)
class Flow(Codec):
    """Displacements in int16 steps of 1/64 pixel, up to 511.98 pixels.

    Attributes:
        predict: "plane" stores differences from the neighbours, as uint16: half the size
    """

    predict: Literal["plane"] | None = None

    name: ClassVar[str] = "flow"
    examples: ClassVar[tuple[Example, ...]] = (
        Example(-FLOW_MAX, FLOW_MAX),
        Example(-FLOW_MAX, FLOW_MAX, {"predict": "plane"}),
    )

    def __post_init__(self) -> None:
        _check_predictor(self.name, self.predict, "plane")

    @property
    def stored(self) -> str:
        """int16 steps, or uint16 differences."""
        return "<i2" if self.predict is None else "<u2"

    def encode(self, x: Array) -> Encoded:
        """Round to the nearest step; ArtifactError above 511.98 pixels."""
        floats = finite_float32(x)
        check_within(floats, -FLOW_MAX, FLOW_MAX, f"codec flow holds up to {FLOW_MAX:.2f} pixels")
        steps = np.rint(floats * np.float32(FLOW_STEPS)).astype("<i2")
        if self.predict is None:
            return Encoded(steps, {})
        check_channels(floats, f"flow with predict = {self.predict!r}")
        return Encoded(differences_of(steps.view("<u2"), self.predict), {})

    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """The value of each step: step / 64."""
        if self.predict is None:
            scaled: NDArray[np.float32] = np.multiply(
                values, 1 / FLOW_STEPS, out=out, dtype=np.float32
            )
            return scaled
        from stillroom.storage_specs.codecs.kernels import undo_plane

        made = np.empty(values.shape, np.float32) if out is None else out
        undo_plane(values, 1 / FLOW_STEPS, made)
        return made

    @property
    def steps(self) -> str:
        """int16, whatever is predicted."""
        return "<i2"

    def undo_prediction(self, values: Array) -> Array:
        """The steps."""
        return values if self.predict is None else steps_of(values, self.predict)

    def bound(self, x: Array) -> float:
        """1/128 pixel; both scalings are by a power of two and exact."""
        return 0.5 / FLOW_STEPS


def _check_predictor(codec: str, given: object, known: str) -> None:
    if given not in (None, known):
        raise ConfigError(
            f"codec {codec!r}: predict = {given!r}; known: {known!r}, or leave it out"
        )


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
