"""The threads beside a model: decoders before it, encoders behind it, and whose turn it is."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

T = TypeVar("T")


class ShardThreads:
    """Decoders and encoders that the shards in a worker's hands share.

    Args:
        decoders, encoders: how many
    """

    def __init__(self, decoders: int, encoders: int) -> None:
        self.decoders, self.encoders = decoders, encoders
        self.decoding = ThreadPoolExecutor(decoders, "decode")
        self.encoding = ThreadPoolExecutor(encoders, "encode")

    def __enter__(self) -> ShardThreads:
        return self

    def __exit__(self, *_: object) -> None:
        self.decoding.shutdown(cancel_futures=True)
        self.encoding.shutdown(cancel_futures=True)


class Turn:
    """Gives the model to one shard at a time.

    Entered, it tells how many seconds the model lay idle since the last shard gave it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given_back: float | None = None

    def __enter__(self) -> float:
        self._lock.acquire()
        return 0.0 if self._given_back is None else time.perf_counter() - self._given_back

    def __exit__(self, *_: object) -> None:
        self._given_back = time.perf_counter()
        self._lock.release()

    def locked(self) -> bool:
        """Whether a shard has the model."""
        return self._lock.locked()


class Tasks(Generic[T]):
    """One shard's tasks in a pool that others use too; results come in the order of the tasks.

    Attributes:
        seconds: that threads worked on those whose results were taken
        waited: seconds that `next` waited
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._futures: deque[Future[tuple[T, float]]] = deque()
        self.seconds = 0.0
        self.waited = 0.0

    def __len__(self) -> int:
        return len(self._futures)

    def submit(self, function: Callable[..., T], *arguments: object) -> None:
        """Have a thread of the pool call a function."""
        self._futures.append(self._pool.submit(_timed, function, *arguments))

    def ready(self) -> bool:
        """Whether `next` would not wait."""
        return bool(self._futures) and self._futures[0].done()

    def next(self) -> T:
        """Return the oldest task's result, or raise what it raised."""
        began = time.perf_counter()
        result, seconds = self._futures.popleft().result()
        self.waited += time.perf_counter() - began
        self.seconds += seconds
        return result

    def give_up(self) -> None:
        """Cancel what has not begun, and wait for what has."""
        for future in self._futures:
            future.cancel()
        wait(self._futures)
        self._futures.clear()


def _timed(function: Callable[..., T], *arguments: object) -> tuple[T, float]:
    began = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - began
