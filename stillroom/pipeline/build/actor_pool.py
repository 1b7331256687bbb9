"""The actors of a build on Ray: what runs in each, how many there are, which may be given work."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build.cores import SHARDS_IN_FLIGHT, thread_counts
from stillroom.pipeline.build.placement import nodes_of, placed
from stillroom.pipeline.cluster.connection import first_line
from stillroom.storage_specs.errors import StillroomError

if TYPE_CHECKING:
    from stillroom.pipeline.build.worker import ShardWorker
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.cache_shard import ShardReport, ShardWork

LOG = logging.getLogger(__name__)
STARTS = 3  # in a row that may fail
LOOK_SECONDS = 5.0  # between two looks at whether the cluster has grown


class NoWorker(StillroomError):
    """Ray gave no worker that could be given a shard."""


class RayWorker:
    """A ShardWorker in a Ray actor.

    Its constructor cannot fail: of that Ray would hand on only the text of a traceback.
    """

    def __init__(self, run: RunConfig, cores: int) -> None:
        self._run, self._cores = run, cores
        self._worker: ShardWorker | None = None

    def ready(self) -> str:
        """Open the sources and the cache; no shard may be given before this has returned.

        Returns:
            Ray's id of the node

        Raises:
            StillroomError: one that concerns every shard (the cache cannot be written, say).
        """
        import ray

        from stillroom.pipeline.build.worker import ShardWorker
        from stillroom.pipeline.run_file.opened_run import open_run
        from stillroom.stages.cache.shard_threads import ShardThreads

        threads = ShardThreads(*thread_counts(self._run.cache, self._cores))
        self._worker = ShardWorker(open_run(self._run), threads)
        return str(ray.get_runtime_context().get_node_id())

    def work(self, work: ShardWork) -> ShardReport:
        """As `ShardWorker.work`."""
        return self._opened().work(work)

    def heartbeat(self) -> tuple[dict[ShardWork, int], float]:
        """As `ShardWorker.heartbeat`."""
        return self._opened().heartbeat()

    def _opened(self) -> ShardWorker:
        if self._worker is None:
            raise RuntimeError("RayWorker.ready has not been called")
        return self._worker


@dataclass(eq=False)
class Actor:
    """An actor as the driver sees it.

    Attributes:
        cpus: that it asked Ray for
        running: by Ray reference, the shards that it has been given
        counted: frames already reported, by shard
        heartbeat: the Ray reference to one that was asked for; None while none is
        asked, fed: when it was last asked for one, and given a shard
        machine: Ray's id of its node
    """

    handle: Any
    cpus: int
    running: dict[Any, ShardWork] = field(default_factory=dict)
    counted: dict[ShardWork, int] = field(default_factory=dict)
    heartbeat: Any = None
    asked: float = -math.inf
    fed: float = 0.0
    machine: str = ""


class ActorPool:
    """Starts actors, and puts others in the place of those that are lost.

    Attributes:
        starting: by the Ray reference to their `ready`, actors that may not be given work yet
        actors: those that may
    """

    def __init__(self, ray: Any, run: RunConfig, shards: int, *, gpu: bool) -> None:
        self._ray, self._run, self._gpu = ray, run, gpu
        self._failed_starts = 0
        self._last_ready = self._looked = time.monotonic()
        self.starting: dict[Any, Actor] = {}
        self.actors: list[Actor] = []
        self._placement = placed(run, nodes_of(ray), gpu=gpu)
        asked = min(run.cache.workers or 1, shards)
        if asked > max(1, self._placement.room):
            LOG.warning(
                "Ray has room for %d of the %d workers asked for", self._placement.room, asked
            )
        self._start_up_to(shards)

    def follow_cluster(self, shards: int) -> None:
        """Start more actors where the cluster has grown and so many shards still wait.

        Those that wait for more CPUs than any machine has left ask for fewer.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS or self._failed_starts >= STARTS:
            return
        self._looked = time.monotonic()
        self._placement = placed(self._run, nodes_of(self._ray), gpu=self._gpu)
        for reference, actor in tuple(self.starting.items()):
            if actor.cpus > self._placement.cpus:
                self._kill(self.starting.pop(reference))
                self._start()
        self._start_up_to(len(self.actors) + len(self.starting) + shards)

    def _start_up_to(self, most: int) -> None:
        for _ in range(len(self.actors) + len(self.starting), min(self._placement.workers, most)):
            self._start()

    def _start(self) -> None:
        """Start an actor with what its threads and its model use."""
        cpus = self._placement.cpus
        remote = self._ray.remote(
            num_cpus=cpus,
            num_gpus=self._placement.gpus,
            max_concurrency=SHARDS_IN_FLIGHT + 1,  # and a heartbeat
            max_restarts=0,
            max_task_retries=0,
        )(RayWorker)
        handle = remote.remote(self._run, cpus)
        self.starting[handle.ready.remote()] = Actor(handle, cpus)

    def add_actor(self, reference: Any) -> None:
        """Take in the actor whose `ready` was answered, if it could start.

        Raises:
            StillroomError: what no retry can mend.
            NoWorker: none could start.
        """
        from ray.exceptions import RayError, RayTaskError

        actor = self.starting.pop(reference)
        try:
            actor.machine = self._ray.get(reference)
        except RayTaskError as error:
            self._not_started(actor, reason_of(cause_of(error)))
        except RayError as error:  # its last line has the cause
            lines = str(error).strip() or type(error).__name__
            self._not_started(actor, lines.splitlines()[-1])
        else:
            self.actors.append(actor)
            self._failed_starts = 0

    def _not_started(self, actor: Actor, reason: str) -> None:
        self._failed_starts += 1
        LOG.warning("a Ray worker could not start: %s", reason)
        self._kill(actor)
        if self._failed_starts < STARTS:
            self._start()
        elif not self.actors:  # else the others do its work
            raise NoWorker(
                f"no Ray worker could start, after {self._failed_starts} attempts: {reason}\n"
                "  is stillroom, in this version, installed on every node? "
                "`--runner inline` shows whether the build works without Ray"
            )

    def check(self) -> None:
        """Stop where no actor has been ready for too long: Ray has no room for them, most often."""
        now, limit = time.monotonic(), self._run.cache.shard_timeout
        if self.actors:
            self._last_ready = now
        if now - self._last_ready > limit:
            raise NoWorker(
                f"no Ray worker became ready within {limit:g} s (cache.shard_timeout)\n"
                f"  asked for: {len(self.starting)} workers of {self._placement} each\n"
                f"  the cluster has {_amounts(self._ray.cluster_resources())}; "
                f"free: {_amounts(self._ray.available_resources())}\n"
                "  free some of it, or give another --address; if workers only start slowly, "
                "raise cache.shard_timeout"
            )

    def has_lost_the_machine_of(self, actor: Actor) -> bool:
        """Return whether the cluster has shrunk by this actor's node."""
        return actor.machine not in {n["NodeID"] for n in self._ray.nodes() if n["Alive"]}

    def replace(self, actor: Actor) -> None:
        """End an actor and start another in its place."""
        self._kill(actor)
        self.actors.remove(actor)
        self._start()

    def close(self) -> None:
        """End all actors."""
        for actor in (*self.actors, *self.starting.values()):
            self._kill(actor)

    def _kill(self, actor: Actor) -> None:
        with contextlib.suppress(Exception):  # gone already, and perhaps its cluster too
            self._ray.kill(actor.handle)


def cause_of(error: Any) -> Exception:
    """Return what was raised in the actor, of a RayTaskError; raise what no retry can mend."""
    cause: Exception = error.cause if isinstance(error.cause, Exception) else error
    if isinstance(cause, StillroomError):
        raise cause from None
    return cause


def reason_of(error: BaseException) -> str:
    """Describe an exception in one line."""
    return f"{type(error).__name__}: {first_line(error)}"


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
