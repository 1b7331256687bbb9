"""Size and error of one frame's array with a codec and a compressor; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.layout import Definition
from stillroom.storage_specs.shards.shard_chunks import chunks_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.storage_specs.layout import ArraySpec


@dataclass(frozen=True)
class Trial:
    """A frame's array after a round trip, and its encoded bytes, side arrays included."""

    decoded: NDArray[Any]
    bytes: int


def try_codec(spec: ArraySpec, values: NDArray[Any]) -> Trial:
    """Encode, compress and decode one frame's array as a set of this spec would.

    Raises:
        ArtifactError: the array does not fit the codec.
    """
    encoded = spec.codec.encode(values)
    stored, *sides = Definition("trial", "trial", {}, 1, 1, (spec,)).stored(spec)
    arrays = [(stored, encoded.values)]
    arrays += [(side, encoded.side[side.attributes["role"]]) for side in sides]
    size = sum(len(chunk) for of, array in arrays for chunk in chunks_of(of, array))
    return Trial(spec.codec.decode(encoded.values, encoded.side), size)
