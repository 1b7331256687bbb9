"""Stage one for one shard: decode -> teacher -> encode -> write -> commit.

No Ray here: a plain loop, a Ray actor and a debugger all call `cache_shard`.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.cache.device_copy import Underway
from stillroom.stages.cache.row_pixels import RowPixels
from stillroom.stages.cache.shard_threads import Tasks
from stillroom.storage_specs.codecs.codec import Encoded
from stillroom.storage_specs.errors import ArtifactError, FrameError
from stillroom.storage_specs.spans import span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from stillroom.stages.cache.inputs import Inputs
    from stillroom.stages.cache.producers import Producer
    from stillroom.stages.cache.shard_threads import ShardThreads, Turn
    from stillroom.stages.evaluate.value_range import Range
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
        wall_seconds: from the first frame asked for to the commit
        produce_seconds: of the model
        turn_seconds: the model was this shard's or waited for it, with nothing else to do
        decode_wait_seconds, encode_wait_seconds: of those, for frames, and for room behind it
        encode_seconds: of all encoders together, whose number is `encoders`
        label_pixels: how many pixels have each class in the shard's labels, by class index
        photo_pixels: how many there are in the photos that a teacher was given for pseudo labels
        sure_pixels: how many of those have one
        ranges: of targets that have one, by name: depth in metres
    """

    work: ShardWork
    frames: int
    bad: int
    bytes: int
    wall_seconds: float
    produce_seconds: float
    bad_labels: int = 0
    turn_seconds: float = 0.0
    decode_wait_seconds: float = 0.0
    encode_wait_seconds: float = 0.0
    encode_seconds: float = 0.0
    encoders: int = 1
    label_pixels: Counter[int] = field(default_factory=Counter)
    photo_pixels: int = 0
    sure_pixels: int = 0
    ranges: dict[str, Range] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardJob:
    """Everything one shard needs.

    Attributes:
        inputs: what the set's rows are made from
        batch: inputs that a model gets at once; batches are cut inside the shard, so that the same
            shard is the same bytes whoever computes it
        turn: held while the teacher runs; shards in several threads then overlap decoding,
            encoding and writing of some with the teacher's work on another
        threads: that decode and encode, for all these shards
        on_frames: called with the number of frames done, as they are done, by any thread
    """

    work: ShardWork
    inputs: Inputs
    produce: Producer
    target: ArtifactSet
    batch: int
    turn: Turn
    threads: ShardThreads
    on_frames: Callable[[int], None] = lambda _: None


def cache_shard(job: ShardJob) -> ShardReport:
    """Fill and commit one shard; frames that cannot be used become bad rows with their reason.

    Raises:
        CacheUnwritable: no space or no permission; nothing was committed.
        SourceUnavailable: a frame's file cannot be read now; nothing was committed.
    """
    started = time.perf_counter()
    shard = _ShardInHand(job, job.target.writer(job.work.shard))
    try:
        shard.fill()
    finally:
        shard.give_up()
    with span("commit"):
        part = shard.writer.commit()
    return ShardReport(
        work=job.work,
        frames=len(part.rows),
        bad=sum(row.status == "bad" for row in part.rows),
        bytes=sum(entry.bytes for entry in part.objects.values()),
        wall_seconds=time.perf_counter() - started,
        produce_seconds=shard.produce_seconds,
        turn_seconds=shard.turn_seconds,
        decode_wait_seconds=shard.decoded.waited,
        encode_wait_seconds=shard.encode_wait_seconds,
        encode_seconds=shard.stored.seconds,
        encoders=job.threads.encoders,
        bad_labels=sum(row.bad_label for row in part.rows),
        label_pixels=shard.pixels.labels,
        photo_pixels=shard.pixels.photo,
        sure_pixels=shard.pixels.sure,
        ranges=shard.pixels.ranges,
    )


class _ShardInHand:
    """A shard's frames on their way from the decoders through the model to the encoders."""

    def __init__(self, job: ShardJob, writer: ShardWriter) -> None:
        self._job, self.writer = job, writer
        self.decoded: Tasks[Any] = Tasks(job.threads.decoding)
        self.stored: Tasks[RowPixels] = Tasks(job.threads.encoding)
        self.pixels = RowPixels()
        self.produce_seconds = self.turn_seconds = self.encode_wait_seconds = 0.0

    def fill(self) -> None:
        """Have every frame put or called bad."""
        batches = _decoded_batches(self._job, self.decoded)
        with self._job.turn as idle_seconds:
            began = time.perf_counter()
            for index, batch, made, seconds in _produced(self._job, batches):
                self.produce_seconds += seconds
                self._store(index, batch, made, seconds / max(1, len(made)))
            self.turn_seconds = idle_seconds + time.perf_counter() - began
            self.encode_wait_seconds = self.stored.waited
        while self.stored:
            self.pixels += self.stored.next()

    def _store(self, first: int, batch: list[Any], made: Sequence[Arrays], each: float) -> None:
        """Hand a batch to the encoders, and wait while too much waits for them."""
        job, arrays_of = self._job, iter(made)
        for index, loaded in enumerate(batch, start=first):
            arrays = {} if isinstance(loaded, FrameError) else next(arrays_of)
            self.stored.submit(_put, job, self.writer, index, loaded, arrays, each)
        # More than two batches, and a frame an encoder, would only hold memory.
        while self.stored.ready() or len(self.stored) > 2 * job.batch + job.threads.encoders:
            self.pixels += self.stored.next()

    def give_up(self) -> None:
        """Leave no thread at work on this shard."""
        self.decoded.give_up()
        self.stored.give_up()


def _decoded_batches(job: ShardJob, decoded: Tasks[Any]) -> Iterator[list[Any]]:
    """Batches of the shard in order, two batches and more ahead; starts decoding at once."""
    waiting = iter(job.target.shard_range(job.work.shard))
    for index in islice(waiting, 2 * job.batch + job.threads.decoders):
        decoded.submit(_decode, job, index)

    def batches() -> Iterator[list[Any]]:
        while decoded:
            batch = []
            for _ in range(min(job.batch, len(decoded))):
                batch.append(decoded.next())
                for index in islice(waiting, 1):
                    decoded.submit(_decode, job, index)
            yield batch

    return batches()


def _produced(
    job: ShardJob, batches: Iterator[list[Any]]
) -> Iterator[tuple[int, list[Any], Sequence[Arrays], float]]:
    """Index of its first frame, inputs, arrays and the model's seconds, of each batch.

    What a GPU computes is waited for when the batch behind it is under way.
    """
    index = job.target.shard_range(job.work.shard)[0]
    before: tuple[int, list[Any], Underway] | None = None
    for batch in batches:
        good = [loaded for loaded in batch if not isinstance(loaded, FrameError)]
        began = time.perf_counter()
        made = job.produce(good) if good else ()
        seconds = time.perf_counter() - began
        if before is not None:
            yield (*before, before[2].seconds)
        before = (index, batch, made) if isinstance(made, Underway) else None
        if before is None:
            yield index, batch, made, seconds
        index += len(batch)
    if before is not None:
        yield (*before, before[2].seconds)


def _decode(job: ShardJob, index: int) -> Any:
    """Load an input; the error of one that cannot be used is its value."""
    try:
        with span("decode"):
            return job.inputs.load(index)
    except FrameError as error:
        return error


def _put(
    job: ShardJob, writer: ShardWriter, index: int, loaded: Any, arrays: Arrays, seconds: float
) -> RowPixels:
    """Encode one frame into the writer, and count its pixels."""
    pixels = RowPixels()
    if isinstance(loaded, FrameError):
        writer.bad(replace(job.inputs.row(index), status="bad", reason=str(loaded)))
    else:
        row = replace(job.inputs.finished_row(index, loaded, arrays), seconds=seconds)
        with span("encode"):
            written = put_row(writer, row, arrays)
        if written:
            pixels = RowPixels.of(arrays, loaded)
    job.on_frames(1)
    return pixels


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
