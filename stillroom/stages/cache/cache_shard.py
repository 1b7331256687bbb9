"""Stage one for one shard: decode -> teacher -> encode -> write -> commit.

No Ray here: a plain loop, a Ray actor and a debugger all call `cache_shard`.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import google_crc32c
import numpy as np

from stillroom.stages.cache.artifacts_of_teacher import mean_confidence, reason_unusable
from stillroom.stages.sources.canvas import CanvasFrame, to_canvas
from stillroom.storage_specs.errors import ArtifactError, FrameError
from stillroom.storage_specs.manifest import FrameRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from stillroom.stages.sources.source import Source
    from stillroom.storage_specs.store import ArtifactSet, ShardWriter


class Produce(Protocol):
    """What fills a set: canvas frames in, the artifacts of each frame out."""

    def __call__(self, frames: Sequence[CanvasFrame]) -> list[dict[str, NDArray[np.generic]]]:
        """Artifacts by name, one dict a frame, in the order of `frames`."""


def frames_and_labels(frames: Sequence[CanvasFrame]) -> list[dict[str, NDArray[np.generic]]]:
    """The artifacts of the set "frames": the canvas frame and, where there is one, its label."""
    return [
        {"frames": frame.image} if frame.label is None
        else {"frames": frame.image, "labels": frame.label}
        for frame in frames
    ]  # fmt: skip


@dataclass(frozen=True)
class ShardWork:
    """One shard of one artifact set of one source: the unit of work, of commit and of retry."""

    source: str
    set_name: str
    shard: int


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

    batch: frames a teacher sees at once; batches are cut inside the shard, so that the same shard
        is the same bytes whoever computes it
    turn: held while the teacher runs; two shards in two threads then overlap decoding, encoding
        and writing of one with the teacher's work on the other
    on_frames: told the number of frames done, as they are done
    """

    work: ShardWork
    source: Source
    canvas: tuple[int, int]
    produce: Produce
    target: ArtifactSet
    batch: int
    turn: AbstractContextManager[object]
    on_frames: Callable[[int], None] = lambda _: None
    decode_threads: int = 2


def cache_shard(job: ShardJob) -> ShardReport:
    """Fill and commit one shard; frames that cannot be used become bad rows with their reason.

    Raises:
        CacheUnwritable: no space or no permission; nothing was committed.
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
                good = [frame for frame in batch if isinstance(frame, CanvasFrame)]
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
    """A frame that could not be decoded, and why."""

    frame_id: str
    reason: str


def _decoded_batches(
    job: ShardJob, decoders: ThreadPoolExecutor
) -> Iterator[list[CanvasFrame | Unreadable]]:
    """Batches of the shard in order, two batches decoded ahead; starts decoding at once."""
    indices = job.target.shard_range(job.work.shard)
    ahead = deque(decoders.submit(_decode, job, index) for index in indices[: 2 * job.batch])
    waiting = iter(indices[2 * job.batch :])

    def batches() -> Iterator[list[CanvasFrame | Unreadable]]:
        while ahead:
            batch = []
            for _ in range(min(job.batch, len(ahead))):
                batch.append(ahead.popleft().result())
                following = next(waiting, None)
                if following is not None:
                    ahead.append(decoders.submit(_decode, job, following))
            yield batch

    return batches()


def _decode(job: ShardJob, index: int) -> CanvasFrame | Unreadable:
    try:
        return to_canvas(job.source.load(index), job.canvas)
    except FrameError as error:
        return Unreadable(job.source.frame_ids[index], str(error))


def _put(
    job: ShardJob,
    writer: ShardWriter,
    first: int,
    batch: list[CanvasFrame | Unreadable],
    made: list[dict[str, NDArray[np.generic]]],
    seconds: float,
) -> None:
    """Encode one batch, whose first frame has the index `first`, into the writer."""
    arrays_of = iter(made)
    each = seconds / max(1, len(made))
    for index, frame in enumerate(batch, start=first):
        if isinstance(frame, Unreadable):
            writer.bad(
                FrameRow(index=index, frame_id=frame.frame_id, status="bad", reason=frame.reason)
            )
            continue
        row = FrameRow(
            index=index,
            frame_id=frame.frame_id,
            valid_height=frame.valid[0],
            valid_width=frame.valid[1],
            crc32c=google_crc32c.value(np.ascontiguousarray(frame.image).tobytes()),
            seconds=each,
        )
        reason = _put_frame(writer, row, frame, next(arrays_of))
        if reason is not None:
            writer.bad(replace(row, status="bad", reason=reason))
    job.on_frames(len(batch))


def _put_frame(
    writer: ShardWriter,
    row: FrameRow,
    frame: CanvasFrame,
    arrays: dict[str, NDArray[np.generic]],
) -> str | None:
    """Encode one frame; why it cannot be used where that fails: one bad frame stays one."""
    reason = reason_unusable(arrays)
    if reason is not None:
        return reason
    try:
        writer.put(replace(row, confidence=mean_confidence(arrays, frame)), arrays)
    except ArtifactError as error:
        return str(error)
    return None
