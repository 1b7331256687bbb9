"""Memory that is used again: a large fresh array costs a page fault every 4 KiB.

`scratch` is for what is read and undone at once, one a thread; `lend` for arrays that a caller
keeps: their memory comes back when the last view of it is gone, and warms the next one.
`remember` keeps small things that were made of shards.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALLEST_LENT = 1 << 16  # below, malloc itself keeps memory warm
IDLE_BLOCKS = 32
"""Returned blocks that are kept, over all sizes."""
REMEMBERED_SHARDS = 4096

_threads = threading.local()
_idle: deque[NDArray[np.uint8]] = deque(maxlen=IDLE_BLOCKS)  # the oldest falls out


def scratch(name: str, size: int) -> NDArray[np.uint8]:
    """This thread's buffer of that name, `size` bytes of it; the next call takes it back."""
    kept: NDArray[np.uint8] | None = getattr(_threads, name, None)
    if kept is None or kept.size < size:
        kept = np.empty(size, np.uint8)
        setattr(_threads, name, kept)
    return kept[:size]


def lend(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of undefined content that is the caller's, as `np.empty` gives."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size < SMALLEST_LENT:
        return np.empty(shape, dtype)
    return np.asarray(_Loan(_block(size), shape, dtype.str))


def _block(size: int) -> NDArray[np.uint8]:
    for _ in range(len(_idle)):
        try:
            block = _idle.pop()
        except IndexError:  # another thread was quicker
            break
        if block.size == size:
            return block
        _idle.appendleft(block)
    return np.empty(size, np.uint8)


class _Loan:
    """The owner of a lent array's memory, which all its NumPy and torch views keep alive."""

    __slots__ = ("__array_interface__", "_memory")

    def __init__(self, block: NDArray[np.uint8], shape: tuple[int, ...], typestr: str) -> None:
        self._memory = block
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": typestr,
            "data": (block.ctypes.data, False),
        }

    def __del__(self, idle: deque[NDArray[np.uint8]] = _idle) -> None:
        idle.append(self._memory)


def remember(kept: dict[int, Any], shard: int, value: Any) -> None:
    """Keep what was made of a shard; all is forgotten where that becomes too much."""
    if len(kept) >= REMEMBERED_SHARDS:
        kept.clear()
    kept[shard] = value
