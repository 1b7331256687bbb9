"""The index at the end of a shard object, and the crc32c behind the index and every chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CRC_BYTES = 4
MISSING = 2**64 - 1
"""Offset and length of a chunk that was never written."""


def index_bytes(chunks: int) -> int:
    """Length of the index: offset and length of each chunk, and a crc32c."""
    return 16 * chunks + CRC_BYTES


def parse_index(tail: bytes | NDArray[np.uint8], chunks: int, size: int | None) -> NDArray[Any]:
    """Return offset and length of each chunk, (chunks, 2) uint64; ValueError if it is damaged.

    Args:
        size: of the whole object, to refuse an index that points beyond it; None where it is
            unknown
    """
    if len(tail) != index_bytes(chunks):
        raise ValueError(f"cut short: the index takes {index_bytes(chunks)} bytes")
    index = without_crc(tail).view("<u8").astype(np.uint64).reshape(chunks, 2)
    if size is not None:
        offsets, lengths = index[index[:, 0] != MISSING].T
        # Not by their sum, which may wrap around.
        if (offsets > size).any() or (lengths > size - np.minimum(offsets, size)).any():
            raise ValueError("it points beyond the object's end")
    return index


def without_crc(content: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The content without the crc32c that ends it; ValueError where they do not agree."""
    if len(content) < CRC_BYTES:
        raise ValueError("cut short")
    # An array is a view that google_crc32c takes; a memoryview it does not.
    payload = np.frombuffer(content, np.uint8)[:-CRC_BYTES]
    check_crc(payload, bytes(content[-CRC_BYTES:]))
    return payload


def check_crc(payload: NDArray[np.uint8], crc: bytes | bytearray) -> None:
    """Refuse bytes that have another crc32c (ValueError)."""
    if google_crc32c.value(payload) != int.from_bytes(crc, "little"):
        raise ValueError("checksum does not match")
