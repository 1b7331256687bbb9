"""What a codec is, and the checks that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from stillroom.storage_specs.errors import ArtifactError

UNIT_SLACK = 1e-5  # a softmax in float32 may end this far above 1

Array = NDArray[Any]
Side = Mapping[str, NDArray[np.float32]]
"""Side arrays by suffix, in the shapes of `Codec.side_shapes`."""


@dataclass(frozen=True)
class Encoded:
    """What is stored of one frame's array.

    Attributes:
        values: in the codec's `stored` dtype and the shape of `stored_shape`
        side: what the codec needs besides
    """

    values: Array
    side: Side


@dataclass(frozen=True)
class Example:
    """Options of a codec and arrays (channel, row, column) that it takes; tests try any of them.

    Attributes:
        low, high: least and greatest value
        zero: whether it takes 0 besides
        channels: the fewest
        last: length of the last axis, where it is given
    """

    low: float
    high: float
    options: dict[str, Any] = field(default_factory=dict)
    dtype: Literal["float32", "uint8"] = "float32"
    zero: bool = False
    channels: int = 1
    last: int | None = None


@dataclass(frozen=True)
class Codec(ABC):
    """How one frame's array is stored: by default one number an element, and no side arrays.

    Attributes:
        whole_logits: what is decoded of logits are those logits, up to the bound; if False only
            their softmax is kept, and losses that look at the logits themselves cannot use them
    """

    name: ClassVar[str]
    whole_logits: ClassVar[bool] = True
    examples: ClassVar[tuple[Example, ...]]

    @property
    def tileable(self) -> bool:
        """Whether stored values decode each by itself, so that a frame can be cut into tiles."""
        return getattr(self, "predict", None) is None

    @property
    @abstractmethod
    def stored(self) -> str:
        """Dtype of the stored values, as NumPy writes it, little-endian."""

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the stored values of an array of this shape."""
        return shape

    def side_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Suffix and shape of each side array of an array of this shape."""
        del shape
        return {}

    @abstractmethod
    def encode(self, x: Array) -> Encoded:
        """Quantise one frame's array; ArtifactError where it does not fit the codec."""

    @abstractmethod
    def decode(self, values: Array, side: Side, out: Array | None = None) -> Array:
        """Undo `encode`, up to `bound`.

        Args:
            out: C-contiguous, of the decoded shape and dtype: filled and returned; without it the
                result is a new array, or `values` itself where nothing is to be undone
        """

    @property
    def steps(self) -> str:
        """Dtype of what `undo_prediction` gives, as NumPy writes it."""
        return self.stored

    def undo_prediction(self, values: Array) -> Array:
        """Stored values as if nothing had been predicted: each decodes by itself, at its place.

        Returns:
            `values` itself where nothing was
        """
        return values

    @abstractmethod
    def bound(self, x: Array) -> NDArray[np.float32] | float:
        """Largest absolute error of a round trip of `x`, broadcastable to it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as JSON, with the options that are set; `codec_from_dict` reads it."""
        options = {each.name: getattr(self, each.name) for each in fields(self)}
        return {"name": self.name, **{k: v for k, v in options.items() if v is not None}}


def finite_float32(x: Array) -> NDArray[np.float32]:
    """The values as float32; ArtifactError where one is not finite or they are whole numbers."""
    if x.dtype.kind != "f":
        raise ArtifactError(f"expected floating-point values, got {x.dtype}")
    with np.errstate(over="ignore"):
        floats = np.asarray(x, dtype=np.float32)
    if not np.isfinite(floats).all():
        refuse(floats, ~np.isfinite(floats), "not finite")
    return floats


def check_within(floats: NDArray[np.float32], low: float, high: float, rule: str) -> None:
    """Refuse values outside low..high."""
    if floats.size and not (low <= floats.min() and floats.max() <= high):
        worst = float(floats.flat[np.abs(floats).argmax()])
        refuse(floats, (floats < low) | (floats > high), f"out of range ({rule}; got {worst:g})")


def refuse(floats: NDArray[np.float32], faulty: NDArray[np.bool_], what: str) -> None:
    """Raise ArtifactError that counts the faulty values and names the first channel with one."""
    where = ""
    if floats.ndim == 3:
        channel = int(faulty.reshape(len(floats), -1).any(axis=1).argmax())
        where = f", first in channel {channel}"
    raise ArtifactError(f"{int(faulty.sum())} of {floats.size} values are {what}{where}")


def check_channels(floats: NDArray[np.float32], codec: str) -> None:
    """Refuse what has no channel axis, or more than rows and columns behind it."""
    if floats.ndim != 3:
        raise ArtifactError(
            f"codec {codec} takes arrays of (channel, row, column), got shape {floats.shape}"
        )


def per_channel(numbers: NDArray[np.float32], like: Array) -> NDArray[np.float32]:
    """(C,) as (C, 1, ..., 1), to be used with an array of `like`'s axes."""
    return numbers.reshape(-1, *(1,) * (like.ndim - 1))


def into(out: Array | None, made: Array) -> Array:
    """`made`, in `out` if there is one."""
    if out is None or out is made:
        return made
    np.copyto(out, made)
    return out
