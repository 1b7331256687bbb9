"""Stage one for one shard: decode -> teacher -> encode -> write -> commit.

No Ray here: a plain loop, a Ray actor and a debugger all call `cache_shard`.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from stillroom.stages.cache.artifacts_of_teacher import reason_unusable
from stillroom.storage_specs.errors import ArtifactError, FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from stillroom.stages.cache.items import Items
    from stillroom.stages.sources.canvas import CanvasFrame
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.shards.shard_writer import ShardWriter


class Producer(Protocol):
    """What fills a set: canvas frames, or pairs of them, in; the artifacts of each out."""

    def __call__(self, items: Sequence[Any], /) -> list[dict[str, NDArray[np.generic]]]:
        """Artifacts by name, one dict an item, in the order of `items`."""


def frames_and_labels(frames: Sequence[CanvasFrame]) -> list[dict[str, NDArray[np.generic]]]:
    """The artifacts of the set "frames": the canvas frame and, where there is one, its label."""
    return [
        {"frames": frame.image} if frame.label is None
        else {"frames": frame.image, "labels": frame.label}
        for frame in frames
    ]  # fmt: skip


@dataclass(frozen=True)
class ShardWork:
    """One shard of one artifact set of one source: the unit of work, of commit and of retry.

    artifacts: of the set, all of which the shard is to hold
    """

    source: str
    set_name: str
    shard: int
    artifacts: tuple[str, ...]


@dataclass(frozen=True)
class ShardReport:
    """What a worker tells about a finished shard: counts and seconds, never arrays."""

    work: ShardWork
    frames: int
    bad: int
    bytes: int
    wall_seconds: float
    produce_seconds: float


@dataclass(frozen=True)
class ShardJob:
    """Everything one shard needs.

    items: what the set's rows are made from
    batch: items a model sees at once; batches are cut inside the shard, so that the same shard
        is the same bytes whoever computes it
    turn: held while the teacher runs; two shards in two threads then overlap decoding, encoding
        and writing of one with the teacher's work on the other
    on_frames: told the number of frames done, as they are done
    """

    work: ShardWork
    items: Items
    produce: Producer
    target: ArtifactSet
    batch: int
    turn: AbstractContextManager[object]
    on_frames: Callable[[int], None] = lambda _: None
    decode_threads: int = 2


def cache_shard(job: ShardJob) -> ShardReport:
    """Fill and commit one shard; frames that cannot be used become bad rows with their reason.

    Raises:
        CacheUnwritable: no space or no permission; nothing was committed.
        SourceUnavailable: a frame's file cannot be read now; nothing was committed.
    """
    started = time.perf_counter()
    writer = job.target.writer(job.work.shard)
    with (
        ThreadPoolExecutor(job.decode_threads, "decode") as decoders,
        ThreadPoolExecutor(1, "encode") as encoder,
    ):
        batches = _decoded_batches(job, decoders)
        puts: deque[Future[None]] = deque()
        produce_seconds = 0.0
        first = job.target.shard_range(job.work.shard)[0]
        with job.turn:
            for batch in batches:
                good = [item for item in batch if not isinstance(item, Unreadable)]
                began = time.perf_counter()
                made = job.produce(good) if good else []
                seconds = time.perf_counter() - began
                produce_seconds += seconds
                puts.append(encoder.submit(_put, job, writer, first, batch, made, seconds))
                first += len(batch)
                # Two batches may wait to be encoded; more would only hold memory.
                while len(puts) > 2:
                    puts.popleft().result()
        for put in puts:
            put.result()
    part = writer.commit()
    return ShardReport(
        work=job.work,
        frames=len(part.rows),
        bad=sum(row.status == "bad" for row in part.rows),
        bytes=sum(entry.bytes for entry in part.objects.values()),
        wall_seconds=time.perf_counter() - started,
        produce_seconds=produce_seconds,
    )


@dataclass(frozen=True)
class Unreadable:
    """An item that could not be decoded, and why."""

    reason: str


def _decoded_batches(job: ShardJob, decoders: ThreadPoolExecutor) -> Iterator[list[Any]]:
    """Batches of the shard in order, two batches decoded ahead; starts decoding at once."""
    indices = job.target.shard_range(job.work.shard)
    ahead = deque(decoders.submit(_decode, job, index) for index in indices[: 2 * job.batch])
    waiting = iter(indices[2 * job.batch :])

    def batches() -> Iterator[list[Any]]:
        while ahead:
            batch = []
            for _ in range(min(job.batch, len(ahead))):
                batch.append(ahead.popleft().result())
                following = next(waiting, None)
                if following is not None:
                    ahead.append(decoders.submit(_decode, job, following))
            yield batch

    return batches()


def _decode(job: ShardJob, index: int) -> Any:
    try:
        return job.items.load(index)
    except FrameError as error:
        return Unreadable(str(error))


def _put(
    job: ShardJob,
    writer: ShardWriter,
    first: int,
    batch: list[Any],
    made: list[dict[str, NDArray[np.generic]]],
    seconds: float,
) -> None:
    """Encode one batch, whose first item has the index `first`, into the writer."""
    arrays_of = iter(made)
    each = seconds / max(1, len(made))
    for index, item in enumerate(batch, start=first):
        if isinstance(item, Unreadable):
            writer.bad(replace(job.items.row(index), status="bad", reason=item.reason))
            continue
        _put_one(job, writer, index, item, next(arrays_of), each)
    job.on_frames(len(batch))


def _put_one(
    job: ShardJob,
    writer: ShardWriter,
    index: int,
    item: Any,
    arrays: dict[str, NDArray[np.generic]],
    seconds: float,
) -> None:
    """Encode one row; where that fails it is a bad one: one bad frame stays one."""
    row = job.items.row(index)
    try:
        row = replace(job.items.made(index, item, arrays), seconds=seconds)
        reason = reason_unusable(arrays)
        if reason is None:
            writer.put(row, arrays)
    except ArtifactError as error:
        reason = str(error)
    if reason is not None:
        writer.bad(replace(row, status="bad", reason=reason, confidence=None))
