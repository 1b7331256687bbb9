"""Processes that fill batches: in memory that they share with the training process.

Memory is an anonymous file of Linux (memfd): it has no name that could outlive a crash, and no
limit of its own as /dev/shm has. Whoever trains maps it, and a filling process opens it through the
descriptors of the one that trains.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from stillroom.stages.train.fillers import fill_place
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.fillers import Frames
    from stillroom.stages.train.packed.packed_batch import PackedBatch

ALIGNMENT = 64  # bytes; of every tensor
GRACE_SECONDS = 30.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # that end a training, and reach all its processes


class Block(NamedTuple):
    """Memory of one batch: a descriptor in the process that trains, and its size in bytes."""

    descriptor: int
    size: int

    def map(self, path: str) -> NDArray[np.uint8]:
        """Return its bytes, of which every view keeps the map."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return np.frombuffer(mmap.mmap(descriptor, self.size), np.uint8)
        finally:
            os.close(descriptor)


class ProcessFillers:
    """Spawned processes, each with datasets of its own.

    Args:
        pin: copy full batches into memory that a GPU reads by itself; it would wait for the copy
            out of any other

    Raises:
        ConfigError: there is no such memory on this system.
    """

    def __init__(self, datasets: Mapping[str, Frames], processes: int, *, pin: bool) -> None:
        if sys.platform != "linux":
            raise ConfigError('train.loader = "processes" needs Linux; take "threads"')
        self._datasets, self._pin = datasets, pin
        self._idle: defaultdict[int, list[Block]] = defaultdict(list)  # by size
        self._blocks: list[Block] = []
        # A forked process would inherit the locks of threads that it does not have.
        self._pool = ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), _begin, (dict(datasets), os.getpid())
        )

    def begin(self, stream: str, count: int) -> ProcessFilling:
        """Return a batch of a stream to be filled, of `count` frames or triplets."""
        dataset = self._datasets[stream]
        size = _Arena.size_of(dataset, count)
        idle = self._idle[size]
        block = idle.pop() if idle else self._new(size)
        memory = block.map(f"/proc/self/fd/{block.descriptor}")
        weakref.finalize(memory, idle.append, block)
        batch = dataset.empty(count, _Arena(memory).allocate)
        return ProcessFilling(self._pool, batch, (stream, count, block), pin=self._pin)

    def close(self) -> None:
        """Drop what was not begun, wait for what was; may be called again."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        while self._blocks:
            os.close(self._blocks.pop().descriptor)

    def _new(self, size: int) -> Block:
        block = Block(os.memfd_create("stillroom-batch"), size)
        self._blocks.append(block)
        os.truncate(block.descriptor, size)
        return block


class ProcessFilling:
    """A batch that processes fill."""

    def __init__(
        self,
        pool: ProcessPoolExecutor,
        batch: Batch | PackedBatch,
        where: tuple[str, int, Block],
        *,
        pin: bool,
    ) -> None:
        self._pool = pool
        self._batch = batch
        self._where, self._pin = where, pin
        self._waiting: list[Future[dict[int, str]]] = []

    def fill(self, place: int, epoch: int, frame: int) -> None:
        """Have a frame read into a place; returns before it is."""
        # A process that this begins must not be ended before it can tell signals apart.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            filling = self._pool.submit(_fill, *self._where, place, epoch, frame)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # Until it is done the batch's memory serves no other, even if nobody waits for it.
        filling.add_done_callback(partial(_let_go, self._batch))
        self._waiting.append(filling)

    def wait(self) -> Batch | PackedBatch:
        """Return the batch when it is full.

        Raises:
            StillroomError: a frame could not be read; names it. Other errors of reading likewise.
            ConfigError: a process died.
        """
        for each in self._waiting:
            try:
                names = each.result()
            except BrokenProcessPool as error:
                raise ConfigError(
                    "a process of the loader died, as one does that the system kills for memory; "
                    'lower train.threads, or take train.loader = "threads"'
                ) from error
            for place, frame_id in names.items():
                self._batch.frame_ids[place] = frame_id
        return self._batch


def _let_go(batch: Batch | PackedBatch, filling: Future[dict[int, str]]) -> None:
    """Keep a batch until now."""


class _Arena:
    """Tensors one behind the other in some memory."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self._memory = memory
        self._used = 0

    @staticmethod
    def size_of(dataset: Frames, count: int) -> int:
        """Return the bytes that a batch takes."""
        total = 0

        def count_in(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            nonlocal total
            total += _rounded(math.prod(shape) * dtype.itemsize)
            return torch.empty(shape, dtype=dtype, device="meta")

        dataset.empty(count, count_in)
        return total

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the next tensor."""
        size = math.prod(shape) * dtype.itemsize
        room = self._memory[self._used : self._used + size]
        self._used += _rounded(size)
        return torch.from_numpy(room).view(dtype).reshape(shape)


def _rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class _Process:
    """What a filling process has: the datasets, and the batches that it has filled places of."""

    datasets: Mapping[str, Frames]
    parent: int
    batches: dict[tuple[str, int, Block], Batch | PackedBatch]


def _begin(datasets: Mapping[str, Frames], parent: int) -> None:
    # Whoever trains ends its step first and saves, even if both are told to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _Process.datasets, _Process.parent, _Process.batches = datasets, parent, {}


def _end_later(*_: object) -> None:
    ending = threading.Timer(GRACE_SECONDS, os._exit, (1,))
    ending.daemon = True  # an end in order comes first
    ending.start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _fill(
    stream: str, count: int, block: Block, place: int, epoch: int, frame: int
) -> dict[int, str]:
    """Fill a place of a batch; return the names of its frames by place."""
    dataset, key = _Process.datasets[stream], (stream, count, block)
    batch = _Process.batches.get(key)
    if batch is None:
        memory = block.map(f"/proc/{_Process.parent}/fd/{block.descriptor}")
        batch = _Process.batches[key] = dataset.empty(count, _Arena(memory).allocate)
    fill_place(dataset, batch, place, epoch, frame)
    return {i: batch.frame_ids[i] for i in range(place, len(batch.frame_ids), count)}
