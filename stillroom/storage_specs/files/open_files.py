# ruff: noqa: D102  (ranged_file.py documents the operations)
"""Files kept open for reading, a bounded number of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stillroom.storage_specs.buffers import scratch
from stillroom.storage_specs.errors import CacheError
from stillroom.storage_specs.files.cautious_reads import open_regular
from stillroom.storage_specs.files.ranged_file import RangedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

MAX_OPEN = 128  # of the 1024 that a process may usually have


class OpenFile(RangedFile):
    """One descriptor, closed with the last reference to it: never under a thread that reads."""

    __slots__ = ("_version", "descriptor", "place")

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = open_regular(path)
        status = os.fstat(self.descriptor)
        self.place = _place(status)
        # A number of a file that is closed and gone may be given to the next one.
        self._version = (*self.place, status.st_mtime_ns, status.st_size)

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    @property
    def version(self) -> tuple[int, ...]:
        return self._version

    def read(self, start: int, length: int) -> NDArray[np.uint8]:
        first = max(0, self.size + start) if start < 0 else start
        content = scratch("read", length)
        return content[: os.preadv(self.descriptor, [content.data], first)]

    def read_into(self, buffers: Sequence[memoryview | bytearray], start: int) -> int:
        return os.preadv(self.descriptor, buffers, start)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Bound here: at the interpreter's end the module's names may be gone first.
        if self.descriptor >= 0:
            close(self.descriptor)


class OpenFiles:
    """The files read last, by path; any number of threads may share it.

    No lock: each step on the dict is one step of the interpreter, and two threads that open the
    same file twice do no harm. A forked child reads on through the descriptors that it inherits:
    reads name their offset, so that no position is shared.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: dict[str, OpenFile] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, path: str) -> OpenFile:
        """The open file; hold it while you read.

        Raises:
            FileNotFoundError: there is none.
            CacheError: it cannot be opened.
        """
        file = self._kept.pop(path, None)
        try:
            # Another file may be at this path by now: repaired, built again, or relative to another
            # working folder.
            if file is None or file.place != _place(os.stat(path)):
                file = OpenFile(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CacheError(f"{path}: cannot be read: {error.strerror}") from error
        self._kept[path] = file  # last in the dict: the first is the one unused for longest
        while len(self._kept) > self.limit:
            self._kept.pop(next(self._oldest(), ""), None)
        return file

    def _oldest(self) -> Iterator[str]:
        try:
            yield next(iter(self._kept))
        except (StopIteration, RuntimeError):  # emptied, or changed by another thread just now
            return


def _place(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


OPEN_FILES = OpenFiles(MAX_OPEN)
"""The limit for all readers of this process together."""
