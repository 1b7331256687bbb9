"""Who fills batches with frames: threads of this process, or processes that share its memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import torch

from stillroom.stages.train.batch_memory import pinned, reused
from stillroom.storage_specs.errors import StillroomError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.batch_memory import Allocate
    from stillroom.stages.train.packed.packed_batch import PackedBatch


class Frames(Protocol):
    """The frames of a stream: `CacheDataset`, or `PackedDataset`, and what it fills."""

    name: str
    frame_ids: list[str]
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the usable frames."""

    def empty(self, count: int, allocate: Allocate = reused) -> Any:
        """Return a batch of `count` frames, or triplets, for `fill`."""

    def fill(self, batch: Any, place: int, epoch: int, frame: int) -> None:
        """Read a view of one frame into a batch."""


class Filling(Protocol):
    """A batch that is being filled, frame by frame."""

    def fill(self, place: int, epoch: int, frame: int) -> None:
        """Have a frame read into a place; returns before it is."""

    def wait(self) -> Batch | PackedBatch:
        """Return the batch when it is full.

        Raises:
            StillroomError: a frame could not be read; names it. Other errors of reading likewise.
        """


class Fillers(Protocol):
    """Fill batches; the frames that were asked for first come first."""

    def begin(self, stream: str, count: int) -> Filling:
        """Return a batch of a stream to be filled, of `count` frames or triplets."""

    def close(self) -> None:
        """Drop what was not begun, wait for what was; may be called again."""


class ThreadFillers:
    """Threads; reading, decompressing and sampling release the interpreter's lock.

    Args:
        pin: make batches in memory that a GPU reads by itself
    """

    def __init__(self, datasets: Mapping[str, Frames], threads: int, *, pin: bool) -> None:
        self._datasets = datasets
        self._allocate = pinned if pin else reused
        self._torch_threads: int | None = torch.get_num_threads()
        # One thread each: a sample is small, and splitting it as well would have every loading
        # thread spin for cores that the student is using.
        self._pool = ThreadPoolExecutor(
            threads, "stillroom-loader", initializer=torch.set_num_threads, initargs=(1,)
        )

    def begin(self, stream: str, count: int) -> ThreadFilling:  # noqa: D102
        dataset = self._datasets[stream]
        return ThreadFilling(self._pool, dataset, dataset.empty(count, self._allocate))

    def close(self) -> None:  # noqa: D102
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._torch_threads is not None:
            # This thread's number never changed, but what later threads begin with did.
            torch.set_num_threads(self._torch_threads)
            self._torch_threads = None


class ThreadFilling:
    """A batch that threads fill."""

    def __init__(
        self, pool: ThreadPoolExecutor, dataset: Frames, batch: Batch | PackedBatch
    ) -> None:
        self._pool = pool
        self._dataset = dataset
        self._batch = batch
        self._waiting: list[Future[None]] = []

    def fill(self, place: int, epoch: int, frame: int) -> None:  # noqa: D102
        asked = (self._dataset, self._batch, place, epoch, frame)
        self._waiting.append(self._pool.submit(fill_place, *asked))

    def wait(self) -> Batch | PackedBatch:  # noqa: D102
        for each in self._waiting:
            each.result()
        return self._batch


def fill_place(
    dataset: Frames, batch: Batch | PackedBatch, place: int, epoch: int, frame: int
) -> None:
    """Read a frame into a batch; what goes wrong names the stream and the frame."""
    try:
        dataset.fill(batch, place, epoch, frame)
    except Exception as error:
        frame_id = dataset.frame_ids[int(dataset.indices[frame])]
        where = f"stream {dataset.name}, frame {frame_id}"
        if isinstance(error, StillroomError):
            raise type(error)(f"{where}: {error}") from error
        error.add_note(f"while reading {where}")
        raise
