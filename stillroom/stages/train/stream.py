"""Batches ahead of time: a thread pool in the training process, bounded, and clean to stop.

Reading, decompressing and tensor arithmetic release the interpreter's lock, so that threads
suffice; nothing is pickled, and no worker process outlives a crash. Frames are read straight into
their places in a batch, whose memory serves a later one when it is let go.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from stillroom.stages.train.batch_memory import pinned, reused
from stillroom.stages.train.order import draws
from stillroom.storage_specs.errors import ConfigError, StillroomError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.dataset import CacheDataset

    Filling = tuple[Batch, list[Future[None]]]


class Loader:
    """One batch of every stream for each step, prepared by threads while the student computes.

    Use it as a context: leaving it, by whatever exception, drops what was not begun and waits for
    what was. A fault in a thread is raised where its batch would have been, naming stream and
    frame.

    Args:
        datasets, batches: by stream, in one order; frames of a stream a step, or triplets
        start_step, steps: yields steps start_step .. steps - 1
        ahead: steps prepared beyond the one in use; enough to occupy the threads if left out
        pin: make batches in memory that a GPU reads by itself
    """

    def __init__(
        self,
        datasets: Mapping[str, CacheDataset],
        batches: Mapping[str, int],
        *,
        seed: int,
        steps: int,
        start_step: int = 0,
        threads: int = 2,
        ahead: int | None = None,
        pin: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not datasets or set(datasets) != set(batches):
            raise ConfigError(
                f"streams {sorted(datasets)} and batch sizes {sorted(batches)} must be the same, "
                "and at least one"
            )
        self.datasets = dict(datasets)
        self.batches = dict(batches)
        self.seed = seed
        self.steps = steps
        self.start_step = start_step
        self.rank, self.world_size = rank, world_size
        frames = sum(batches.values())
        self.ahead = max(1, math.ceil(2 * threads / frames)) if ahead is None else ahead
        self._allocate = pinned if pin else reused
        self._torch_threads: int | None = torch.get_num_threads()
        # One thread each: a sample is small, and splitting it as well would have every loading
        # thread spin for cores that the student is using.
        self._pool = ThreadPoolExecutor(
            threads, "stillroom-loader", initializer=torch.set_num_threads, initargs=(1,)
        )

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the batches of each step, in the order of the streams."""
        waiting: deque[list[Filling]] = deque()
        submitted = self.start_step
        for step in range(self.start_step, self.steps):
            while submitted < self.steps and submitted <= step + self.ahead:
                waiting.append([self._submit(stream, submitted) for stream in self.datasets])
                submitted += 1
            yield [_filled(*filling) for filling in waiting.popleft()]

    def __enter__(self) -> Loader:
        """Return the loader itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the threads."""
        self.close()

    def close(self) -> None:
        """Drop what was not begun, wait for what was; may be called again."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._torch_threads is not None:
            # This thread's number never changed, but what later threads begin with did.
            torch.set_num_threads(self._torch_threads)
            self._torch_threads = None

    def _submit(self, stream: str, step: int) -> Filling:
        dataset, count = self.datasets[stream], self.batches[stream]
        positions = range(step * count, (step + 1) * count)
        drawn = draws(len(dataset), self.seed, stream, positions, self.rank, self.world_size)
        batch = dataset.empty(count, self._allocate)
        return batch, [
            self._pool.submit(_fill, dataset, batch, place, epoch, frame)
            for place, (epoch, frame) in enumerate(drawn)
        ]


def _filled(batch: Batch, fillings: list[Future[None]]) -> Batch:
    for filling in fillings:
        filling.result()
    return batch


def _fill(dataset: CacheDataset, batch: Batch, place: int, epoch: int, frame: int) -> None:
    try:
        dataset.fill(batch, place, epoch, frame)
    except Exception as error:
        frame_id = dataset.frame_ids[int(dataset.indices[frame])]
        where = f"stream {dataset.name}, frame {frame_id}"
        if isinstance(error, StillroomError):
            raise type(error)(f"{where}: {error}") from error
        error.add_note(f"while reading {where}")
        raise
