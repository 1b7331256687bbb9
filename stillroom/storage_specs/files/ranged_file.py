"""A file that is read in pieces: an open one, one in an object store, or one that is in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray


class RangedFile:
    """One file. Threads may share it."""

    __slots__ = ()

    @property
    def size(self) -> int | None:
        """The size in bytes; None where it would take a request."""
        return None

    @property
    def version(self) -> Hashable:
        """What another file at the same place has another of; None where it is not known."""
        return None

    def read(self, start: int, length: int) -> NDArray[np.uint8]:
        """Return `length` bytes from `start`, counted from the end if negative; fewer at the end.

        The memory may be used again when this thread reads next.
        """
        raise NotImplementedError

    def read_into(self, buffers: Sequence[memoryview | bytearray], start: int) -> int:
        """Fill buffers, one after the other, from `start`; return the bytes that there were."""
        content = self.read(start, sum(map(len, buffers)))
        place = 0
        for buffer in buffers:
            part = content[place : place + len(buffer)]
            buffer[: len(part)] = part.tobytes()
            place += len(part)
        return place


class HeldBytes(RangedFile):
    """The bytes of a file that was read whole."""

    def __init__(self, content: bytes | NDArray[np.uint8]) -> None:
        self._content = np.frombuffer(content, np.uint8)

    @property
    def size(self) -> int:  # noqa: D102
        return self._content.size

    def read(self, start: int, length: int) -> NDArray[np.uint8]:  # noqa: D102
        first = max(0, self.size + start) if start < 0 else start
        return self._content[first : first + length]
