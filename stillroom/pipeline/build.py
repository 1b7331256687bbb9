"""Stage one as a whole: plan, run the missing shards, stop where too much is bad."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stillroom.pipeline.plan import SetPlan, plan_build
from stillroom.pipeline.targets import open_targets
from stillroom.pipeline.worker import ShardWorker
from stillroom.stages.torch_state import threads
from stillroom.storage_specs.errors import CacheIncomplete, StillroomError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stillroom.pipeline.config import RunConfig
    from stillroom.stages.cache.cache_shard import ShardReport, ShardWork


@dataclass(frozen=True)
class BuildEvent:
    """Something happened to a shard: frames were done, it was committed, or an attempt failed."""

    work: ShardWork
    frames: int = 0
    report: ShardReport | None = None
    problem: str | None = None


@dataclass
class BuildReport:
    """What a build did, for the person who started it."""

    plans: list[SetPlan]
    shards: int = 0
    frames: int = 0
    bytes: int = 0
    produce_seconds: float = 0.0
    wall_seconds: float = 0.0
    bad: Counter[tuple[str, str]] = field(default_factory=Counter)
    quarantined: dict[ShardWork, str] = field(default_factory=dict)

    def add(self, report: ShardReport) -> None:
        """Count a committed shard."""
        self.shards += 1
        self.frames += report.frames
        self.bytes += report.bytes
        self.produce_seconds += report.produce_seconds
        self.bad[report.work.source, report.work.set_name] += report.bad


def build(
    run: RunConfig,
    *,
    runner: str = "inline",
    address: str | None = None,
    on_plan: Callable[[list[SetPlan]], None] = lambda _: None,
    on_event: Callable[[BuildEvent], None] = lambda _: None,
) -> BuildReport:
    """Compute and commit every shard that is missing; running it again resumes.

    runner: "inline" in this process, "ray" on a local or (`address`) an existing Ray cluster; both
        write the same bytes

    Raises:
        CacheMismatch: the cache was built from something else.
        CacheIncomplete: too many bad frames, or shards that failed three times; what was committed
            stays.
        CacheUnwritable: no space, no permission; what was committed stays.
    """
    started = time.perf_counter()
    targets = open_targets(run)
    plans = plan_build(targets)
    on_plan(plans)
    report = BuildReport(plans)
    frames_of = {(plan.source, plan.set_name): plan.frames for plan in plans}

    def listen(event: BuildEvent) -> None:
        on_event(event)
        if event.report is not None:
            report.add(event.report)
            _stop_if_too_bad(event.report, report, frames_of, run.cache.max_bad_fraction)

    works = [work for plan in plans for work in plan.works()]
    if works and runner == "ray":
        from stillroom.pipeline.ray_runner import run_on_ray

        report.quarantined = run_on_ray(run, works, address, listen)
    elif works:
        run_inline(run, works, listen)
    report.wall_seconds = time.perf_counter() - started
    if report.quarantined:
        listing = "\n".join(
            f"  {work.source}/{work.set_name} shard {work.shard}: {reason}"
            for work, reason in report.quarantined.items()
        )
        raise CacheIncomplete(
            f"{run.cache.path}: {len(report.quarantined)} shards failed three times each, all "
            f"others are committed\n{listing}\n  mend the cause, then run the same command again"
        )
    return report


def run_inline(
    run: RunConfig, works: list[ShardWork], listen: Callable[[BuildEvent], None]
) -> None:
    """Work the shards off in this process, two at a time around one teacher.

    The first failure ends the build: here a traceback serves better than a retry.
    """
    stop = threading.Event()

    def one(work: ShardWork) -> ShardReport:
        def on_frames(frames: int) -> None:
            if stop.is_set():
                raise _Stopped
            listen(BuildEvent(work, frames=frames))

        return worker.work(work, on_frames)

    # What this process does next, training perhaps, has its own number of threads.
    with threads(run.cache.threads), ThreadPoolExecutor(2, "shard") as pool:
        worker = ShardWorker(run)
        try:
            for work, report in _in_flight(pool, one, works):
                listen(BuildEvent(work, report=report))
        except BaseException:
            stop.set()  # the shard in the other thread is given up at its next batch
            raise


class _Stopped(Exception):
    """Another shard failed or the user interrupted: this one is given up, uncommitted."""


def _in_flight(
    pool: ThreadPoolExecutor, one: Callable[[ShardWork], ShardReport], works: list[ShardWork]
) -> Iterator[tuple[ShardWork, ShardReport]]:
    """Results as they come, never more than two shards begun."""
    waiting = iter(works)
    running: dict[Future[ShardReport], ShardWork] = {}
    while True:
        while len(running) < 2 and (work := next(waiting, None)) is not None:
            running[pool.submit(one, work)] = work
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield running.pop(future), future.result()


def _stop_if_too_bad(
    latest: ShardReport,
    report: BuildReport,
    frames_of: dict[tuple[str, str], int],
    max_bad_fraction: float,
) -> None:
    key = (latest.work.source, latest.work.set_name)
    bad, frames = report.bad[key], frames_of[key]
    if bad > max_bad_fraction * frames:
        raise TooManyBadFrames(
            f"source {key[0]!r}: {bad} of {frames} frames are unusable so far, more than "
            f"cache.max_bad_fraction = {max_bad_fraction:g} allows\n"
            "  see which and why with `stillroom cache info RUN.toml --bad`, mend the source, or "
            "raise the limit; committed shards stay"
        )


class TooManyBadFrames(StillroomError):
    """A source has more unusable frames than the run allows."""
