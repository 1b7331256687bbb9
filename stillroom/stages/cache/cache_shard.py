"""Stage one for one shard: decode -> teacher -> encode -> write -> commit.

No Ray here: a plain loop, a Ray actor and a debugger all call `cache_shard`.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.artifacts import IGNORE, LABELS, PSEUDO_LABEL
from stillroom.storage_specs.codecs.codec import Encoded
from stillroom.storage_specs.errors import ArtifactError, FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from stillroom.stages.cache.inputs import Inputs
    from stillroom.stages.cache.producers import Producer
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.manifest import FrameRow
    from stillroom.storage_specs.shards.shard_writer import ShardWriter

    Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class ShardWork:
    """One shard of one artifact set of one source: the unit of work, of commit and of retry.

    Attributes:
        artifacts: of the set, all of which the shard is to hold
    """

    source: str
    set_name: str
    shard: int
    artifacts: tuple[str, ...]


@dataclass(frozen=True)
class ShardReport:
    """What a worker reports of a finished shard: counts and seconds, never arrays.

    Attributes:
        bad_labels: how many frames can be used, but for their labels
        label_pixels: how many pixels have each class in the shard's labels, by class index
        photo_pixels: how many there are in the photos that a teacher was given for pseudo labels
        sure_pixels: how many of those have one
    """

    work: ShardWork
    frames: int
    bad: int
    bytes: int
    wall_seconds: float
    produce_seconds: float
    bad_labels: int = 0
    label_pixels: Counter[int] = field(default_factory=Counter)
    photo_pixels: int = 0
    sure_pixels: int = 0


@dataclass
class _Pixels:
    """The pixels of rows that were written, as a `ShardReport` counts them."""

    labels: Counter[int] = field(default_factory=Counter)
    photo: int = 0
    sure: int = 0

    def count(self, arrays: Arrays, loaded: Any) -> None:
        if LABELS in arrays:
            self.labels += class_pixels(arrays[LABELS])
        if PSEUDO_LABEL in arrays:
            height, width = loaded.valid
            self.photo += height * width
            label = arrays[PSEUDO_LABEL][:height, :width]
            self.sure += int(np.count_nonzero(label != IGNORE))


@dataclass(frozen=True)
class ShardJob:
    """Everything one shard needs.

    Attributes:
        inputs: what the set's rows are made from
        batch: inputs that a model gets at once; batches are cut inside the shard, so that the same
            shard is the same bytes whoever computes it
        turn: held while the teacher runs; two shards in two threads then overlap decoding, encoding
            and writing of one with the teacher's work on the other
        on_frames: called with the number of frames done, as they are done
    """

    work: ShardWork
    inputs: Inputs
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
        pixels = _Pixels()
        produce_seconds = 0.0
        first = job.target.shard_range(job.work.shard)[0]
        with job.turn:
            for batch in batches:
                good = [loaded for loaded in batch if not isinstance(loaded, FrameError)]
                began = time.perf_counter()
                made = job.produce(good) if good else []
                seconds = time.perf_counter() - began
                produce_seconds += seconds
                puts.append(encoder.submit(_put, job, writer, pixels, first, batch, made, seconds))
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
        bad_labels=sum(row.bad_label for row in part.rows),
        label_pixels=pixels.labels,
        photo_pixels=pixels.photo,
        sure_pixels=pixels.sure,
    )


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
    """Load an input; the error of one that cannot be used is its value."""
    try:
        return job.inputs.load(index)
    except FrameError as error:
        return error


def _put(
    job: ShardJob,
    writer: ShardWriter,
    pixels: _Pixels,
    first: int,
    batch: list[Any],
    made: list[Arrays],
    seconds: float,
) -> None:
    """Encode one batch, whose first input has the index `first`, into the writer, and count it."""
    arrays_of = iter(made)
    each = seconds / max(1, len(made))
    for index, loaded in enumerate(batch, start=first):
        if isinstance(loaded, FrameError):
            writer.bad(replace(job.inputs.row(index), status="bad", reason=str(loaded)))
            continue
        arrays = next(arrays_of)
        row = replace(job.inputs.finished_row(index, loaded, arrays), seconds=each)
        if put_row(writer, row, arrays):
            pixels.count(arrays, loaded)
    job.on_frames(len(batch))


def class_pixels(label: NDArray[np.generic]) -> Counter[int]:
    """Count the pixels of each class in a label map of uint8; those to be ignored do not count."""
    counts = np.bincount(label.ravel().astype(np.intp), minlength=IGNORE)[:IGNORE]
    return Counter({int(index): int(counts[index]) for index in np.flatnonzero(counts)})


def put_row(writer: ShardWriter, row: FrameRow, arrays: Arrays) -> bool:
    """Encode a row; one that cannot be used is a bad one, with its reason, and False."""
    reason = reason_unusable(arrays)
    if reason is None:
        try:
            writer.put(row, arrays)
        except ArtifactError as error:
            reason = str(error)
    if reason is not None:
        writer.bad(replace(row, status="bad", reason=reason, confidence=None))
    return reason is None


def reason_unusable(arrays: Arrays) -> str | None:
    """Tell why a model's output may not be cached: a NaN or infinity somewhere; else None."""
    for artifact, values in arrays.items():
        if isinstance(values, Encoded):
            continue  # its codec has checked it already
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int(values.size - np.isfinite(values).sum())
            return f"output {artifact} is not finite in {bad} of {values.size} values"
    return None
