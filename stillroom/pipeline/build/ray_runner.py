"""Stage one on Ray: core actors and a queue of shards in the driver.

No array passes through Ray's object store: an actor writes its shard itself and returns counts.
The cache's commits are the only truth: before a shard is tried again, the driver looks there.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build.actor_pool import (
    ActorPool,
    cause_of,
    reason_of,
)
from stillroom.pipeline.build.cores import SHARDS_IN_FLIGHT
from stillroom.pipeline.build.placement import by_device, nodes_of
from stillroom.pipeline.build.report import BuildEvent
from stillroom.pipeline.build.sets import stored_set
from stillroom.pipeline.cluster.connection import connected, first_line
from stillroom.pipeline.run_file.loading import with_absolute_paths
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.pipeline.build.actor_pool import Actor
    from stillroom.pipeline.build.report import Listener
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.cache_shard import ShardWork

LOG = logging.getLogger(__name__)
ATTEMPTS = 3
POLL_SECONDS = 0.5


def run_on_ray(
    run: RunConfig, works: list[ShardWork], address: str | None, listen: Listener
) -> dict[ShardWork, str]:
    """Work the shards off on Ray; shards that failed three times come back with their reasons.

    Raises:
        ConfigError: nothing answers at the address, Ray does not start, or the cache is in this
            process's memory.
        NoWorker: Ray has no room for a worker, or none of them starts.
        StillroomError: one that no retry can mend (another teacher's cache, a full disk).
    """
    if str(run.cache.path).startswith("memory://"):
        raise ConfigError(
            f"cache.path = {run.cache.path}: Ray's workers have memories of their own; give a "
            "folder or a bucket, or build with --runner inline"
        )
    run = with_absolute_paths(run)
    given_up: dict[ShardWork, str] = {}
    with connected(run.cache.workers or 1, address) as ray:
        without, on_gpus, lacking = by_device(run, works, nodes_of(ray))
        for name in lacking:
            LOG.warning(
                "%s RUNS ON CPUS: the cluster has no GPU; with device = 'cuda' in its section Ray "
                "is asked for one, which an autoscaler brings", name
            )  # fmt: skip
        # One after the other, so that nothing that runs on a CPU holds a GPU.
        for some, gpu in ((without, False), (on_gpus, True)):
            if some:
                given_up |= _ShardQueue(ray, run, some, listen, gpu=gpu).run()
    return given_up


class _ShardQueue:
    """The shards still to do, the actors that do them, and the attempts that failed."""

    def __init__(
        self, ray: Any, run: RunConfig, works: list[ShardWork], listen: Listener, *, gpu: bool
    ) -> None:
        self._ray, self._run, self._listen = ray, run, listen
        self._waiting = deque(works)
        self._failures: dict[ShardWork, list[str]] = {}
        self._quarantined: dict[ShardWork, str] = {}
        self._pool = ActorPool(ray, run, len(works), gpu=gpu)

    def run(self) -> dict[ShardWork, str]:
        """Go on until every shard is committed or quarantined."""
        pool = self._pool
        try:
            while self._waiting or any(actor.running for actor in pool.actors):
                for actor in pool.actors:
                    self._feed(actor)
                self._take_result()
                for actor in tuple(pool.actors):
                    self._check_progress(actor)
                pool.check()
                pool.follow_cluster(len(self._waiting))
            return self._quarantined
        finally:
            pool.close()

    def _feed(self, actor: Actor) -> None:
        """Keep the actor busy; a shard that failed before runs alone, so that it fails alone."""
        while self._waiting and len(actor.running) < SHARDS_IN_FLIGHT:
            suspects = [*actor.running.values(), self._waiting[0]]
            if actor.running and any(work in self._failures for work in suspects):
                return
            work = self._waiting.popleft()
            actor.running[actor.handle.work.remote(work)] = work
            actor.fed = time.monotonic()

    def _take_result(self) -> None:
        """Wait a moment for an actor that has started, or for a shard that has ended."""
        owners = {reference: actor for actor in self._pool.actors for reference in actor.running}
        references = [*owners, *self._pool.starting]
        done, _ = self._ray.wait(references, num_returns=1, timeout=POLL_SECONDS)
        for reference in done:
            if reference in owners:
                self._settle(owners[reference], reference)
            else:
                self._pool.add_actor(reference)

    def _settle(self, actor: Actor, reference: Any) -> None:
        """Take the result of one attempt: committed, to be tried again, or given up."""
        from ray.exceptions import RayError, RayTaskError

        try:
            report = self._ray.get(reference)
        except RayTaskError as error:
            self._failed(actor.running.pop(reference), reason_of(cause_of(error)))
        except RayError as error:  # its process, node or memory is gone
            self._replace(actor, f"worker died: {first_line(error)}")
        else:
            work = actor.running.pop(reference)
            missing = report.frames - actor.counted.pop(work, 0)
            self._listen(BuildEvent(work, frames=missing, report=report))

    def _check_progress(self, actor: Actor) -> None:
        """Report the actor's progress; replace it where it finished no batch for too long."""
        from ray.exceptions import RayError

        limit = self._run.cache.shard_timeout
        if actor.heartbeat is None:
            actor.heartbeat = (actor.handle.heartbeat.remote(), time.monotonic())
        reference, asked = actor.heartbeat
        done, _ = self._ray.wait([reference], timeout=0)
        if not done:
            if time.monotonic() - asked > limit:
                self._replace(actor, f"the worker said nothing for more than {limit:g} s")
            return
        actor.heartbeat = None
        try:
            progress, idle_seconds = self._ray.get(reference)
        except RayError:
            if not actor.running:  # else the results of its shards come in as errors
                self._pool.replace(actor)
            return
        in_hand = set(actor.running.values())  # what was settled meanwhile is counted already
        for work, frames in progress.items():
            more = frames - actor.counted.get(work, 0)
            if work in in_hand and more > 0:
                self._listen(BuildEvent(work, frames=more))
                actor.counted[work] = frames
        # A worker that had nothing to do for long gets its full time once it is fed.
        if actor.running and min(idle_seconds, time.monotonic() - actor.fed) > limit:
            self._replace(actor, f"no batch finished for more than {limit:g} s")

    def _replace(self, actor: Actor, reason: str) -> None:
        """Put another actor in the place of this one, and settle what it had in hand."""
        self._pool.replace(actor)
        for work in actor.running.values():
            self._listen(BuildEvent(work, frames=-actor.counted.get(work, 0)))
            self._failed(work, reason)

    def _failed(self, work: ShardWork, reason: str) -> None:
        """Count a failed attempt, unless the worker died after its commit."""
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
        stored = stored_set(self._run, work.source, work.set_name)
        return stored is not None and work.shard in stored.committed()
