"""What a codec is, and the checks that all of them share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Encoded:
    """What is stored of one frame's array.

    values: in the codec's `stored` dtype and the shape of `stored_shape`
    side: float32 arrays by suffix, in the shapes of `side_shapes`
    """

    values: NDArray[Any]
    side: dict[str, NDArray[np.float32]]


class Codec(Protocol):
    """How one frame's array is stored. Implementations are frozen dataclasses.

    whole_logits: what is decoded of logits are those logits, up to the bound; if False only their
        softmax is kept, and losses that look at the logits themselves cannot use them
    cell_by_cell: the stored values of some rows and columns decode, with the frame's side arrays,
        to the decoded values of these; a frame of other codecs cannot be cut into tiles
    """

    name: ClassVar[str]
    whole_logits: ClassVar[bool]

    @property
    def cell_by_cell(self) -> bool:
        """See above."""

    @property
    def stored(self) -> str:
        """Dtype of the stored values, as NumPy writes it, little-endian."""

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the stored values of an array of this shape."""

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


class Usual:
    """What most codecs have in common: one number an element, no side arrays."""

    name: ClassVar[str]
    whole_logits: ClassVar[bool] = True

    @property
    def cell_by_cell(self) -> bool:
        """Whether nothing is predicted from neighbours."""
        return getattr(self, "predict", None) is None

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """That of the array."""
        return shape

    def side_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """None."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """The name, and the options that are set."""
        options = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        return {"name": self.name, **{k: v for k, v in options.items() if v is not None}}


def finite_float32(x: NDArray[Any]) -> NDArray[np.float32]:
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


def per_channel(numbers: NDArray[np.float32], like: NDArray[Any]) -> NDArray[np.float32]:
    """(C,) as (C, 1, ..., 1), to be used with an array of `like`'s axes."""
    return numbers.reshape(-1, *(1,) * (like.ndim - 1))


def into(out: NDArray[Any] | None, made: NDArray[Any]) -> NDArray[Any]:
    """`made`, in `out` if there is one."""
    if out is None or out is made:
        return made
    np.copyto(out, made)
    return out
