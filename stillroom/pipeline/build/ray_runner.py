"""Stage one on Ray: core actors and a queue of shards in the driver.

No array passes through Ray's object store: an actor writes its shard itself and returns counts.
The cache's commits are the only truth: before a shard is tried again, the driver looks there.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build.actor_pool import ActorPool, cause_of, reason_of
from stillroom.pipeline.build.cores import SHARDS_IN_FLIGHT
from stillroom.pipeline.build.placement import by_device, nodes_of
from stillroom.pipeline.build.report import BuildEvent
from stillroom.pipeline.build.sets import stored_set
from stillroom.pipeline.cluster.connection import connected, first_line
from stillroom.pipeline.run_file.loading import with_absolute_paths
from stillroom.storage_specs.errors import CacheError, ConfigError

if TYPE_CHECKING:
    from stillroom.pipeline.build.actor_pool import Actor
    from stillroom.pipeline.build.report import Listener
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.cache_shard import ShardReport, ShardWork

LOG = logging.getLogger(__name__)
ATTEMPTS = 3
MOVES = 10  # of a shard, off machines that were lost, before it is suspected of losing them
POLL_SECONDS = 0.5
BEATS_A_SECOND = 100  # of all actors together


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
        self._moves: Counter[ShardWork] = Counter()  # off machines that were lost
        self._quarantined: dict[ShardWork, str] = {}
        self._pool = ActorPool(ray, run, len(works), gpu=gpu)

    def run(self) -> dict[ShardWork, str]:
        """Go on until every shard is committed or quarantined."""
        pool = self._pool
        try:
            while self._waiting or any(actor.running for actor in pool.actors):
                for actor in pool.actors:
                    self._feed(actor)
                    self._ask(actor)
                self._take_results()
                for actor in tuple(pool.actors):
                    self._check_silence(actor)
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

    def _ask(self, actor: Actor) -> None:
        """Ask for a heartbeat now and then: the more actors, the less often each of them."""
        pause = max(POLL_SECONDS, len(self._pool.actors) / BEATS_A_SECOND)
        if actor.heartbeat is None and time.monotonic() - actor.asked >= pause:
            actor.heartbeat, actor.asked = actor.handle.heartbeat.remote(), time.monotonic()

    def _take_results(self) -> None:
        """Wait a moment for a shard that has ended or an actor that has started; take all there is.

        One call to Ray for many: one for each of hundreds of actors would keep the driver busy.
        """
        owners = {reference: actor for actor in self._pool.actors for reference in actor.running}
        references = [*owners, *self._pool.starting]
        self._ray.wait(references, num_returns=1, timeout=POLL_SECONDS)
        beating = {a.heartbeat: a for a in self._pool.actors if a.heartbeat is not None}
        references += beating
        done, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        results = [(owners[one], one, self._result(one)) for one in done if one in owners]
        # What is done counts, even where its actor was lost just after.
        for actor, reference, result in sorted(results, key=lambda each: _is_error(each[2])):
            if reference in actor.running:
                self._settle(actor, reference, result)
        for reference in done:
            if reference in beating:
                self._take_heartbeat(beating[reference])
            elif reference in self._pool.starting:
                self._pool.add_actor(reference)

    def _result(self, reference: Any) -> ShardReport | Exception:
        from ray.exceptions import RayError

        try:
            report: ShardReport = self._ray.get(reference)
        except RayError as error:
            return error
        return report

    def _settle(self, actor: Actor, reference: Any, result: ShardReport | Exception) -> None:
        """Take the result of one attempt: committed, to be tried again, or given up."""
        from ray.exceptions import ActorUnavailableError, RayTaskError

        if isinstance(result, RayTaskError):
            self._failed(actor.running.pop(reference), reason_of(cause_of(result)))
        elif isinstance(result, Exception):  # its process, node or memory is gone
            # Ray says so where it cannot tell yet whether the machine is gone.
            out_of_reach = isinstance(result, ActorUnavailableError)
            self._replace(actor, f"worker died: {first_line(result)}", out_of_reach=out_of_reach)
        else:
            work = actor.running.pop(reference)
            missing = result.frames - actor.counted.pop(work, 0)
            self._listen(BuildEvent(work, frames=missing, report=result))

    def _take_heartbeat(self, actor: Actor) -> None:
        """Report the actor's progress; replace it where it finished no batch for too long."""
        from ray.exceptions import RayError

        reference, actor.heartbeat = actor.heartbeat, None
        try:
            progress, idle_seconds = self._ray.get(reference)
        except RayError:
            if actor in self._pool.actors and not actor.running:
                self._pool.replace(actor)  # else the results of its shards come in as errors
            return
        in_hand = set(actor.running.values())  # what was settled meanwhile is counted already
        for work, frames in progress.items():
            more = frames - actor.counted.get(work, 0)
            if work in in_hand and more > 0:
                self._listen(BuildEvent(work, frames=more))
                actor.counted[work] = frames
        # A worker that had nothing to do for long gets its full time once it is fed.
        limit = self._run.cache.shard_timeout
        if actor.running and min(idle_seconds, time.monotonic() - actor.fed) > limit:
            self._replace(actor, f"no batch finished for more than {limit:g} s")

    def _check_silence(self, actor: Actor) -> None:
        limit = self._run.cache.shard_timeout
        if actor.heartbeat is not None and time.monotonic() - actor.asked > limit:
            self._replace(actor, f"the worker said nothing for more than {limit:g} s")

    def _replace(self, actor: Actor, reason: str, *, out_of_reach: bool = False) -> None:
        """Put another actor in the place of this one, and settle what it had in hand."""
        lost = out_of_reach or self._pool.has_lost_the_machine_of(actor)
        self._pool.replace(actor)
        works, actor.running = [*actor.running.values()], {}
        for work in works:
            self._listen(BuildEvent(work, frames=-actor.counted.get(work, 0)))
            self._moves[work] += lost
            if lost and self._moves[work] <= MOVES:  # that is no fault of the shard's
                self._move(work)
            else:
                self._failed(work, reason)

    def _move(self, work: ShardWork) -> None:
        if not self._is_committed(work):
            self._listen(BuildEvent(work, problem="its machine is out of reach: others do it"))
            self._waiting.appendleft(work)

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
        """Look for this shard's record alone: a large manifest takes half a minute to read."""
        try:
            stored = stored_set(self._run, work.source, work.set_name)
            return stored is not None and bool(stored.part(work.shard))
        except CacheError:
            return False


def _is_error(result: ShardReport | Exception) -> bool:
    return isinstance(result, Exception)
