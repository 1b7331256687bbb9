"""The actors of a build on Ray: how many, of which resources, and which of them may be fed."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build.ray_actor import RayWorker
from stillroom.pipeline.run_file.paths import with_absolute_paths
from stillroom.storage_specs.errors import StillroomError
from stillroom.storage_specs.layout import teacher_of

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.cache_shard import ShardWork

LOG = logging.getLogger(__name__)
STARTS = 3  # in a row that may fail
SHARDS_IN_FLIGHT = 2  # an actor's next shard is decoded while its teacher works on this one


class NoWorker(StillroomError):
    """Ray gave no worker that could be given a shard."""


@dataclass(eq=False)
class Actor:
    """A worker on Ray, and what it has in hand."""

    handle: Any
    starting: Any  # Ray reference to its `ready`; None once that was answered: it may be fed
    running: dict[Any, ShardWork] = field(default_factory=dict)  # Ray reference -> its shard
    counted: dict[ShardWork, int] = field(default_factory=dict)  # frames already reported
    heartbeat: Any = None
    fed: float = 0.0  # when it was last given a shard


class Crew:
    """Starts actors, says which are ready, and puts others in the place of lost ones."""

    def __init__(self, ray: Any, run: RunConfig, works: list[ShardWork]) -> None:
        self._ray, self._run = ray, with_absolute_paths(run)
        cluster = ray.cluster_resources()
        self._gpus = int(cluster.get("GPU", 0)) if _use_gpus(run, works) else 0
        # One CPU stays free of actors, if there is more than one.
        room = max(1, int(cluster.get("CPU", 0)) - 1)
        room = min(room, self._gpus) if self._gpus else room
        asked = min(run.cache.workers or max(1, self._gpus), len(works))
        if asked > room:
            LOG.warning("Ray has room for %d of the %d workers asked for", room, asked)
        self._failed_starts = 0
        self._last_ready = time.monotonic()
        self.actors = [self._start() for _ in range(min(asked, room))]

    def _start(self) -> Actor:
        """An actor, with a GPU where models use one; threads for two shards and a heartbeat."""
        remote = self._ray.remote(
            num_cpus=1,
            num_gpus=1 if self._gpus else 0,
            max_concurrency=SHARDS_IN_FLIGHT + 1,
            max_restarts=0,
            max_task_retries=0,
        )(RayWorker)
        handle = remote.remote(self._run)
        return Actor(handle, handle.ready.remote())

    def welcome(self, actor: Actor) -> None:
        """Its `ready` was answered: it may be fed, or could not start, or the build must stop."""
        from ray.exceptions import RayError, RayTaskError

        try:
            self._ray.get(actor.starting)
        except RayTaskError as error:
            self._not_started(actor, reason_of(cause_of(error)))
        except RayError as error:  # its last line has the cause
            said = str(error).strip() or type(error).__name__
            self._not_started(actor, said.splitlines()[-1])
        else:
            actor.starting = None
            self._failed_starts = 0

    def _not_started(self, actor: Actor, reason: str) -> None:
        self._failed_starts += 1
        LOG.warning("a Ray worker could not start: %s", reason)
        if self._failed_starts < STARTS:
            self.replace(actor)
        elif any(other.starting is None for other in self.actors):
            self._kill(actor)  # the others do its work
            self.actors.remove(actor)
        else:
            raise NoWorker(
                f"no Ray worker could start, after {self._failed_starts} attempts: {reason}\n"
                "  is stillroom, in this version, installed on every node? "
                "`--runner inline` shows whether the build works without Ray"
            )

    def check(self) -> None:
        """Stop where no actor has been ready for too long: Ray has no room for them, most often."""
        now, limit = time.monotonic(), self._run.cache.shard_timeout
        if any(actor.starting is None for actor in self.actors):
            self._last_ready = now
        if now - self._last_ready > limit:
            each = "1 CPU and 1 GPU" if self._gpus else "1 CPU"
            raise NoWorker(
                f"no Ray worker became ready within {limit:g} s (cache.shard_timeout)\n"
                f"  asked for: {len(self.actors)} workers of {each} each\n"
                f"  the cluster has {_amounts(self._ray.cluster_resources())}; "
                f"free: {_amounts(self._ray.available_resources())}\n"
                "  free some of it, or give another --address; if workers only start slowly, "
                "raise cache.shard_timeout"
            )

    def replace(self, actor: Actor) -> None:
        """End an actor and start another in its place."""
        self._kill(actor)
        self.actors[self.actors.index(actor)] = self._start()

    def dismiss(self) -> None:
        """End all actors."""
        for actor in self.actors:
            self._kill(actor)

    def _kill(self, actor: Actor) -> None:
        with contextlib.suppress(Exception):  # gone already, and perhaps its cluster too
            self._ray.kill(actor.handle)


def _use_gpus(run: RunConfig, works: list[ShardWork]) -> bool:
    """Whether a model that has work to do may run on a GPU; frames are written without one."""
    devices = {name: teacher.device for name, teacher in run.teachers.items()}
    devices |= {name: flow.device for name, flow in run.flows.items()}
    names = {teacher_of(work.set_name) for work in works}
    return any(devices.get(name, "cpu") != "cpu" for name in names)


def cause_of(error: Any) -> Exception:
    """What was raised in the actor, of a RayTaskError; what no retry can mend is raised here."""
    cause: Exception = error.cause if isinstance(error.cause, Exception) else error
    if isinstance(cause, StillroomError):
        raise cause from None
    return cause


def reason_of(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """What an exception says, without what follows."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
