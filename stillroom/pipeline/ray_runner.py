"""Stage one on Ray: core actors and a queue of shards in the driver.

No array passes through Ray's object store: an actor writes its shard itself and returns counts.
The cache's commits are the only truth: before a shard is tried again, the driver looks there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build import BuildEvent
from stillroom.pipeline.config import with_absolute_paths
from stillroom.storage_specs.errors import CacheIncomplete, StillroomError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stillroom.pipeline.config import RunConfig
    from stillroom.stages.cache.cache_shard import ShardWork

ATTEMPTS = 3
POLL_SECONDS = 0.5
SHARDS_IN_FLIGHT = 2  # an actor's next shard is decoded while its teacher works on this one


@dataclass
class _Actor:
    handle: Any
    running: dict[Any, ShardWork] = field(default_factory=dict)  # Ray reference -> its shard
    counted: dict[ShardWork, int] = field(default_factory=dict)  # frames already reported
    heartbeat: Any = None


def run_on_ray(
    run: RunConfig,
    works: list[ShardWork],
    address: str | None,
    listen: Callable[[BuildEvent], None],
) -> dict[ShardWork, str]:
    """Work the shards off on Ray; shards that failed three times come back with their reasons.

    Raises:
        StillroomError: one that no retry can mend (another teacher's cache, a full disk).
    """
    # Ray prints what its daemons say to stdout, which belongs to the command's own report.
    with contextlib.redirect_stdout(sys.stderr), _connected(run, address) as ray:
        return _Queue(ray, run, works, listen).drain()


class _connected:
    """A Ray connection that is closed again, if it was opened here."""

    def __init__(self, run: RunConfig, address: str | None) -> None:
        self._run, self._address, self._opened = run, address, False

    def __enter__(self) -> Any:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        if not ray.is_initialized():
            local: dict[str, Any] = {"include_dashboard": False, "num_cpus": self._local_cpus()}
            ray.init(
                address=self._address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **({} if self._address else local),
            )
            self._opened = True
        return ray

    def _local_cpus(self) -> int:
        """Enough for the actors that were asked for, whatever the machine has, and one to spare."""
        return max(os.cpu_count() or 1, (self._run.cache.workers or 1) + 1)

    def __exit__(self, *_: object) -> None:
        if self._opened:
            import ray

            ray.shutdown()


class _Queue:
    """The shards still to do, the actors that do them, and what became of each attempt."""

    def __init__(
        self,
        ray: Any,
        run: RunConfig,
        works: list[ShardWork],
        listen: Callable[[BuildEvent], None],
    ) -> None:
        self._ray, self._run, self._listen = ray, with_absolute_paths(run), listen
        self._waiting = deque(works)
        self._failures: dict[ShardWork, list[str]] = {}
        self._quarantined: dict[ShardWork, str] = {}
        self._gpus = int(ray.cluster_resources().get("GPU", 0))
        count = min(run.cache.workers or max(1, self._gpus), len(works))
        self._actors = [self._start() for _ in range(count)]

    def drain(self) -> dict[ShardWork, str]:
        """Run until every shard is committed or quarantined."""
        try:
            while self._waiting or any(actor.running for actor in self._actors):
                for actor in self._actors:
                    self._feed(actor)
                for actor, reference in self._finished():
                    self._settle(actor, reference)
                for position, actor in enumerate(self._actors):
                    if self._is_stuck(actor):
                        self._replace(position, "no batch finished for too long")
            return self._quarantined
        finally:
            for actor in self._actors:
                self._ray.kill(actor.handle)

    def _start(self) -> _Actor:
        """An actor, with a GPU where there are any; threads for two shards and a heartbeat."""
        from stillroom.pipeline.worker import ShardWorker

        remote = self._ray.remote(
            num_cpus=1,
            num_gpus=1 if self._gpus else 0,
            max_concurrency=SHARDS_IN_FLIGHT + 1,
            max_restarts=0,
            max_task_retries=0,
        )(ShardWorker)
        return _Actor(remote.remote(self._run))

    def _feed(self, actor: _Actor) -> None:
        """Keep the actor busy; a shard that failed before runs alone, so that it fails alone."""
        while self._waiting and len(actor.running) < SHARDS_IN_FLIGHT:
            suspects = [*actor.running.values(), self._waiting[0]]
            if actor.running and any(work in self._failures for work in suspects):
                return
            work = self._waiting.popleft()
            actor.running[actor.handle.work.remote(work)] = work

    def _finished(self) -> Iterator[tuple[_Actor, Any]]:
        running = {reference: actor for actor in self._actors for reference in actor.running}
        done, _ = self._ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
        for reference in done:
            if reference in running[reference].running:  # not taken away with a dead actor
                yield running[reference], reference

    def _settle(self, actor: _Actor, reference: Any) -> None:
        """Take the result of one attempt: committed, to be tried again, or given up."""
        from ray.exceptions import RayActorError, RayTaskError

        work = actor.running[reference]
        try:
            report = self._ray.get(reference)
        except RayActorError as error:
            self._replace(self._actors.index(actor), f"worker died: {_first_line(error)}")
        except RayTaskError as error:
            del actor.running[reference]
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, StillroomError):
                raise cause from None
            self._failed(work, f"{type(cause).__name__}: {_first_line(cause)}")
        else:
            del actor.running[reference]
            missing = report.frames - actor.counted.pop(work, 0)
            self._listen(BuildEvent(work, frames=missing, report=report))

    def _is_stuck(self, actor: _Actor) -> bool:
        """Report the actor's progress; true where it finished no batch within the timeout."""
        from ray.exceptions import RayError

        if actor.heartbeat is None:
            actor.heartbeat = (actor.handle.heartbeat.remote(), time.monotonic())
        reference, asked = actor.heartbeat
        done, _ = self._ray.wait([reference], timeout=0)
        if not done:  # the actor may still be building its teacher
            silent: float = time.monotonic() - asked
            return silent > self._run.cache.shard_timeout
        actor.heartbeat = None
        try:
            said: tuple[dict[ShardWork, int], float] = self._ray.get(reference)
        except RayError:
            return False  # a dead actor shows in its shards' results
        progress, idle_seconds = said
        for work, frames in progress.items():
            if frames > actor.counted.get(work, 0):
                self._listen(BuildEvent(work, frames=frames - actor.counted.get(work, 0)))
                actor.counted[work] = frames
        return bool(actor.running and idle_seconds > self._run.cache.shard_timeout)

    def _replace(self, position: int, reason: str) -> None:
        """End an actor, start another in its place, and settle what it had in hand."""
        lost = self._actors[position]
        self._ray.kill(lost.handle)
        self._actors[position] = self._start()
        for work in lost.running.values():
            self._listen(BuildEvent(work, frames=-lost.counted.get(work, 0)))
            self._failed(work, reason)

    def _failed(self, work: ShardWork, reason: str) -> None:
        """One attempt less; but a worker may have died after its commit, so look there first."""
        if self._is_committed(work):
            return
        reasons = self._failures.setdefault(work, [])
        reasons.append(reason)
        self._listen(BuildEvent(work, problem=f"attempt {len(reasons)} of {ATTEMPTS}: {reason}"))
        if len(reasons) < ATTEMPTS:
            self._waiting.append(work)
        else:
            self._quarantined[work] = reason

    def _is_committed(self, work: ShardWork) -> bool:
        try:
            target = Cache.open(self._run.cache.path).artifact_set(work.source, work.set_name)
        except CacheIncomplete:
            return False
        return work.shard in target.committed()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
