"""What computes shards: holds one model, and works off one shard after the other."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from stillroom.pipeline.build.models import Models, produce_by
from stillroom.stages.cache.cache_shard import ShardJob, cache_shard
from stillroom.stages.cache.reuse import Reuse
from stillroom.stages.models.teacher import Teacher
from stillroom.stages.torch_state import use_threads
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from stillroom.pipeline.targets import Targets
    from stillroom.stages.cache.cache_shard import Produce, ShardReport, ShardWork
    from stillroom.storage_specs.artifact_set import ArtifactSet

    Arrays = dict[str, NDArray[Any]]


class ShardWorker:
    """Computes shards of a run, here or in a Ray actor.

    Two threads may call `work` at once: a turn then keeps the teacher to one shard at a time, while
    the other shard is decoded, encoded or written.

    models: of the same targets, where one may have been built already
    """

    def __init__(self, targets: Targets, models: Models | None = None) -> None:
        use_threads(targets.run.cache.threads)
        self._run = targets.run
        self._targets = targets
        self._cache = Cache.create(targets.run.cache.path)
        self._turn = threading.Lock()
        self._building = threading.Lock()
        self._models = Models(targets) if models is None else models
        self._sets: dict[tuple[str, str], ArtifactSet] = {}
        self._older: dict[tuple[str, str], ArtifactSet | None] = {}
        self._progress: dict[ShardWork, int] = {}
        self._last_progress = time.monotonic()

    def work(
        self,
        work: ShardWork,
        on_frames: Callable[[int], None] = lambda _: None,
        before_batch: Callable[[], None] = lambda: None,
    ) -> ShardReport:
        """Compute and commit one shard.

        before_batch: called before each batch is computed; gives the shard up by raising

        Raises:
            CacheMismatch: the set on disk was built from something else (another device, say).
            CacheUnwritable: no space, no permission.
            SourceUnavailable: a source's file cannot be read now.
        """

        def count(frames: int) -> None:
            self._count(work, frames)
            on_frames(frames)

        def produce_unless_stopped(items: Sequence[Any]) -> list[Arrays]:
            before_batch()
            return produce(items)

        produce, target = self._open(work)
        self._last_progress = time.monotonic()
        try:
            return cache_shard(
                ShardJob(
                    work=work,
                    items=self._targets.items(work.source, work.set_name),
                    produce=produce_unless_stopped,
                    target=target,
                    batch=self._run.cache.batch,
                    turn=self._turn,
                    on_frames=count,
                )
            )
        finally:
            self._progress.pop(work, None)

    def _count(self, work: ShardWork, frames: int) -> None:
        self._progress[work] = self._progress.get(work, 0) + frames
        self._last_progress = time.monotonic()

    def heartbeat(self) -> tuple[dict[ShardWork, int], float]:
        """Frames done of every shard at work, and seconds since the last batch was finished."""
        return dict(self._progress), time.monotonic() - self._last_progress

    def _open(self, work: ShardWork) -> tuple[Produce, ArtifactSet]:
        """What fills the set, and the set; a model is kept until it is another's turn."""
        key = (work.source, work.set_name)
        with self._building:
            name = teacher_of(work.set_name)
            artifacts = self._targets.holdings(self._cache, work.source, name)[work.set_name]
            model = self._models.of(work.set_name)
            if key not in self._sets:  # defining a set takes a forward pass, for its shapes
                self._sets[key] = self._targets.define(self._cache, *key, model, artifacts)
            produce = produce_by(model, self._targets, work.source, artifacts)
            if isinstance(model, Teacher):
                produce = self._reusing(produce, self._sets[key])
            return produce, self._sets[key]

    def _reusing(self, produce: Produce, target: ArtifactSet) -> Produce:
        """With cache.reuse: the frames that are there come from there."""
        older = self._run.cache.reuse
        if older is None:
            return produce
        key = (target.source, target.name)
        if key not in self._older:
            cache = Cache.open(older)
            self._older[key] = cache.artifact_set(*key) if key in cache.sets() else None
        old = self._older[key]
        return produce if old is None else Reuse(produce, old, target)
