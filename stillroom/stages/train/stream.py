"""Batches ahead of time: a thread pool in the training process, bounded, and clean to stop.

Reading, decompressing and tensor arithmetic release the interpreter's lock, so that threads
suffice; nothing is pickled, and no worker process outlives a crash.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from stillroom.stages.train.batch import Batch, Triplets
from stillroom.stages.train.order import draws
from stillroom.stages.train.sample import Sample, Triplet
from stillroom.storage_specs.errors import ConfigError, StillroomError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from torch import Tensor

    from stillroom.stages.train.dataset import CacheDataset


class Loader:
    """One batch of every stream for each step, prepared by threads while the student computes.

    Use it as a context: leaving it, by whatever exception, drops what was not begun and waits for
    what was. A fault in a thread is raised where its batch would have been, naming stream and
    frame.

    Args:
        datasets, batches: by stream, in one order; frames of a stream a step, or triplets
        start_step, steps: yields steps start_step .. steps - 1
        ahead: steps prepared beyond the one in use; enough to occupy the threads if left out
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
        self._torch_threads: int | None = torch.get_num_threads()
        # One thread each: a sample is small, and splitting it as well would have every loading
        # thread spin for cores that the student is using.
        self._pool = ThreadPoolExecutor(
            threads, "stillroom-loader", initializer=torch.set_num_threads, initargs=(1,)
        )

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the batches of each step, in the order of the streams."""
        waiting: deque[list[Future[Batch]]] = deque()
        submitted = self.start_step
        for step in range(self.start_step, self.steps):
            while submitted < self.steps and submitted <= step + self.ahead:
                waiting.append([self._submit(stream, submitted) for stream in self.datasets])
                submitted += 1
            yield [future.result() for future in waiting.popleft()]

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

    def _submit(self, stream: str, step: int) -> Future[Batch]:
        dataset, batch = self.datasets[stream], self.batches[stream]
        positions = range(step * batch, (step + 1) * batch)
        drawn = draws(len(dataset), self.seed, stream, positions, self.rank, self.world_size)
        samples = [self._pool.submit(_sample, dataset, epoch, place) for epoch, place in drawn]
        # The pool is first in, first out: whoever stacks waits only for tasks begun before it.
        return self._pool.submit(_stack, stream, dataset.labelled, samples)


def _sample(dataset: CacheDataset, epoch: int, place: int) -> Sample | Triplet:
    try:
        return dataset.sample(epoch, place)
    except Exception as error:
        frame_id = dataset.frame_ids[int(dataset.indices[place])]
        where = f"stream {dataset.name}, frame {frame_id}"
        if isinstance(error, StillroomError):
            raise type(error)(f"{where}: {error}") from error
        error.add_note(f"while reading {where}")
        raise


def _stack(stream: str, labelled: bool, futures: list[Future[Sample | Triplet]]) -> Batch:
    found = [future.result() for future in futures]
    triplets = [one for one in found if isinstance(one, Triplet)]
    samples = [one for one in found if isinstance(one, Sample)]
    for place in range(3 if triplets else 0):  # frames themselves, those before, those after
        samples += [one.samples[place] for one in triplets]
    return Batch(
        stream=stream,
        labelled=labelled,
        images=torch.stack([sample.image for sample in samples]),
        labels=_stacked_labels(samples) if labelled else None,
        mask=torch.stack([sample.mask for sample in samples]),
        artifacts={
            key: torch.stack([sample.artifacts[key] for sample in samples])
            for key in samples[0].artifacts
        },
        masks={
            stride: torch.stack([sample.masks[stride] for sample in samples])
            for stride in samples[0].masks
        },
        frame_ids=[sample.frame_id for sample in samples],
        triplets=Triplets.of(triplets) if triplets else None,
    )


def _stacked_labels(samples: list[Sample]) -> Tensor:
    return torch.stack([sample.label for sample in samples if sample.label is not None])
