"""Batches ahead of time: filled by a bounded number of threads or processes, and clean to stop.

Frames are read straight into their places in a batch, whose memory serves a later one when it is
let go.
"""

from __future__ import annotations

import math
from collections import deque
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from stillroom.stages.across_ranks import ALL, Rows, rank, said_once, share, world_size
from stillroom.stages.train.filler_processes import ProcessFillers
from stillroom.stages.train.fillers import ThreadFillers
from stillroom.stages.train.order import draws
from stillroom.stages.train.packed.packed_dataset import streams_of
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.fillers import Fillers, Filling, Frames
    from stillroom.stages.train.job import TrainJob
    from stillroom.stages.train.mix import Mix, Mixing
    from stillroom.stages.train.packed.packed_batch import PackedBatch


class Loader:
    """One batch of every stream for each step, prepared while the student computes.

    Use it as a context: leaving it, by whatever exception, drops what was not begun and waits for
    what was. A fault in reading is raised where its batch would have been, naming stream and
    frame.

    Args:
        datasets, batches: by stream, in one order; frames of a stream a step, or triplets, which
            ranks share
        mixing: of streams whose frames are mixed
        start_step, steps: yields steps start_step .. steps - 1
        ahead: steps prepared beyond the one in use; enough to occupy the threads if left out
        threads: threads that fill batches
        processes: take so many processes instead of threads
        pin: hand out batches in memory that a GPU reads by itself
    """

    def __init__(
        self,
        datasets: Mapping[str, Frames],
        batches: Mapping[str, int],
        *,
        mixing: Mapping[str, Mixing] = MappingProxyType({}),
        seed: int,
        steps: int,
        start_step: int = 0,
        threads: int = 2,
        ahead: int | None = None,
        processes: bool = False,
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
        self.mixing = dict(mixing)
        self.seed = seed
        self.steps = steps
        self.start_step = start_step
        self.rank, self.world_size = rank, world_size
        self._shares = {name: self._share(name, count) for name, count in batches.items()}
        frames = sum(map(len, self._shares.values()))
        self.ahead = max(1, math.ceil(2 * threads / frames)) if ahead is None else ahead
        self._fillers: Fillers = (
            ProcessFillers(self.datasets, threads, pin=pin)
            if processes
            else ThreadFillers(self.datasets, threads, pin=pin)
        )

    def __iter__(self) -> Iterator[list[Batch | PackedBatch]]:
        """Yield the batches of each step, in the order of the streams."""
        waiting: deque[list[Filling]] = deque()
        submitted = self.start_step
        for step in range(self.start_step, self.steps):
            while submitted < self.steps and submitted <= step + self.ahead:
                waiting.append([self._submit(stream, submitted) for stream in self.datasets])
                submitted += 1
            batches = [filling.wait() for filling in waiting.popleft()]
            for batch in batches:
                batch.rows = self._rows(batch)
                batch.mix = self._mix(batch.stream, step)
            yield batches

    def __enter__(self) -> Loader:
        """Return the loader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the threads or processes."""
        self.close()

    def close(self) -> None:
        """Drop what was not begun, wait for what was; may be called again."""
        self._fillers.close()

    def _share(self, stream: str, count: int) -> range:
        if count < self.world_size:
            raise said_once(
                ConfigError(
                    f"train.streams.{stream}: a batch of {count} for {self.world_size} workers, "
                    "and each needs a frame of it; raise the batch, or take fewer workers"
                )
            )
        if stream in self.mixing and count % (2 * self.world_size):
            raise said_once(
                ConfigError(
                    f"train.streams.{stream}: mix pastes the frames of a pair into each other, and "
                    f"each of {self.world_size} workers needs whole pairs of the batch of {count}; "
                    f"make it a multiple of {2 * self.world_size}"
                )
            )
        return share(count, self.rank, self.world_size)

    def _rows(self, batch: Batch | PackedBatch) -> Rows:
        if self.world_size == 1:
            return ALL
        of, start = self.batches[batch.stream], self._shares[batch.stream].start
        return Rows(start, of, blocks=3 if batch.clips else 1)

    def _mix(self, stream: str, step: int) -> Mix | None:
        if stream not in self.mixing:
            return None
        own, of = self._shares[stream], self.batches[stream]
        return self.mixing[stream].draw(self.seed, stream, step, own, of)

    def _submit(self, stream: str, step: int) -> Filling:
        dataset, own = self.datasets[stream], self._shares[stream]
        first = step * self.batches[stream]
        positions = range(first + own.start, first + own.stop)
        drawn = draws(len(dataset), self.seed, stream, positions)
        filling = self._fillers.begin(stream, len(own))
        for place, (epoch, frame) in enumerate(drawn):
            filling.fill(place, epoch, frame)
        return filling


def open_loader(job: TrainJob, start_step: int = 0, steps: int | None = None) -> Loader:
    """Open the loader of a run: `job.parts` batches of every stream for each of its steps.

    Args:
        steps: up to which; to the end if left out
    """
    settings = job.settings
    return Loader(
        streams_of(job),
        {name: stream.batch for name, stream in settings.streams.items()},
        mixing=job.mixing,
        seed=settings.seed,
        steps=(job.steps if steps is None else steps) * job.parts,
        start_step=start_step * job.parts,
        threads=settings.threads,
        processes=settings.loader == "processes",
        pin=torch.device(job.device).type == "cuda",
        rank=rank(),
        world_size=world_size(),
    )
