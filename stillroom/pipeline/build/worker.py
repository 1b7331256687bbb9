"""A worker: holds one model and computes one shard after the other."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from stillroom.pipeline.build.model_loader import ModelLoader, producer_for
from stillroom.pipeline.build.sets import RunSet, define_set
from stillroom.stages.cache.cache_shard import ShardJob, cache_shard
from stillroom.stages.cache.reuse import Reuse
from stillroom.stages.cache.shard_threads import Turn
from stillroom.stages.models.teacher import Teacher
from stillroom.stages.torch_state import use_threads
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.stages.cache.cache_shard import ShardReport, ShardWork
    from stillroom.stages.cache.producers import Producer
    from stillroom.stages.cache.shard_threads import ShardThreads
    from stillroom.storage_specs.artifact_set import ArtifactSet

    Arrays = dict[str, NDArray[Any]]


class ShardWorker:
    """Computes shards of a run, here or in a Ray actor.

    SHARDS_IN_FLIGHT threads may call `work` at once: a turn then keeps the teacher to one shard at
    a time, while others are decoded, encoded or written.

    Args:
        threads: that decode and encode
        models: of the same run, where one may have been built already
    """

    def __init__(
        self, opened: OpenedRun, threads: ShardThreads, models: ModelLoader | None = None
    ) -> None:
        use_threads(opened.run.cache.threads)
        self._opened = opened
        self._cache = Cache.create(opened.run.cache.path)
        self._turn = Turn()
        self._counting = threading.Lock()
        self._opening = threading.Lock()
        self._threads = threads
        self._models = ModelLoader(opened) if models is None else models
        self._model = ""  # the name of that which the sets are made by
        self._sets: dict[tuple[str, str], tuple[Producer, ArtifactSet]] = {}
        self._progress: dict[ShardWork, int] = {}
        self._last_progress = time.monotonic()

    def work(
        self,
        work: ShardWork,
        on_frames: Callable[[int], None] = lambda _: None,
        before_batch: Callable[[], None] = lambda: None,
    ) -> ShardReport:
        """Compute and commit one shard.

        Args:
            before_batch: called before each batch is computed; gives the shard up by raising

        Raises:
            ConfigError: the teacher's outputs cannot be cached, see `ModelLoader.look_at`.
            CacheMismatch: the set on disk was built from something else (another device, say).
            CacheUnwritable: no space, no permission.
            SourceUnavailable: a source's file cannot be read now.
        """

        def count(frames: int) -> None:
            with self._counting:
                self._progress[work] = self._progress.get(work, 0) + frames
            self._last_progress = time.monotonic()
            on_frames(frames)

        def produce(inputs: Sequence[Any]) -> Sequence[Arrays]:
            before_batch()
            return producer(inputs)

        producer, target = self._set_of(work)
        job = ShardJob(
            work=work,
            inputs=self._opened.inputs(work.source, work.set_name),
            produce=produce,
            target=target,
            batch=self._opened.run.cache.batch,
            turn=self._turn,
            threads=self._threads,
            on_frames=count,
        )
        self._last_progress = time.monotonic()
        try:
            return cache_shard(job)
        finally:
            self._progress.pop(work, None)

    def heartbeat(self) -> tuple[dict[ShardWork, int], float]:
        """Return the frames done of each shard at work, and seconds since the last batch ended."""
        return dict(self._progress), time.monotonic() - self._last_progress

    def _set_of(self, work: ShardWork) -> tuple[Producer, ArtifactSet]:
        """Return the set and what makes its arrays; both are kept until another model's turn."""
        key, name = (work.source, work.set_name), teacher_of(work.set_name)
        with self._opening:
            if name != self._model:  # let the old one go before the new one takes its memory
                self._sets, self._model, self._turn = {}, name, Turn()
            model = self._models.of(work.set_name)
            if key not in self._sets:  # defining a set takes a forward pass, for its shapes
                one = RunSet(*key, work.artifacts)
                self._models.look_at(*key[1:], work.artifacts)
                target = define_set(self._opened, self._cache, one, model)
                producer = producer_for(self._opened, one, model)
                if isinstance(model, Teacher):
                    producer = self._reusing(producer, target)
                self._sets[key] = producer, target
            return self._sets[key]

    def _reusing(self, producer: Producer, target: ArtifactSet) -> Producer:
        """With cache.reuse: the frames that are there come from there."""
        if self._opened.run.cache.reuse is None:
            return producer
        older, key = Cache.open(self._opened.run.cache.reuse), (target.source, target.name)
        if key not in older.sets():
            return producer
        return Reuse(producer, older.artifact_set(*key), target)
