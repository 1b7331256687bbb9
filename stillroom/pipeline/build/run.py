"""Stage one as a whole: plan, run the missing shards, stop where too much is bad."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import defaultdict
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING

from stillroom.pipeline.build.checks import check_before_build
from stillroom.pipeline.build.plan import SetPlan, plan_build
from stillroom.pipeline.build.report import BuildEvent, BuildReport
from stillroom.pipeline.build.worker import ShardWorker
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.stages.torch_state import threads
from stillroom.storage_specs.errors import CacheIncomplete, StillroomError, TooManyBadFrames
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.manifest import bad_rows
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stillroom.pipeline.build.producers import ModelLoader
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.cache_shard import ShardReport, ShardWork
    from stillroom.storage_specs.manifest import FrameRow

LOG = logging.getLogger(__name__)
SHOWN_REASONS = 3
NOT_FINITE = "not finite"  # of a model's output, whatever found it so
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")


def build(
    run: RunConfig,
    *,
    runner: str = "inline",
    address: str | None = None,
    extend: bool = False,
    on_plan: Callable[[list[SetPlan]], None] = lambda _: None,
    on_event: Callable[[BuildEvent], None] = lambda _: None,
) -> BuildReport:
    """Compute and commit every shard that is missing; running it again resumes.

    runner: "inline" here, or "ray", locally or on the cluster at `address`; the bytes are the same
    extend: as for `plan_build`

    Raises:
        ConfigError, WeightsError: as `check_before_build`; nothing was cached.
        CacheMismatch: the cache was built from something else.
        TooManyBadFrames: of one set, earlier builds' counted too; what was committed stays.
        CacheIncomplete: shards that failed three times; what was committed stays.
        CacheUnwritable: no space, no permission; what was committed stays.
        SourceUnavailable: a source's file cannot be read now; what was committed stays.
    """
    started = time.perf_counter()
    opened = open_run(run)
    plans = plan_build(opened, extend=extend)
    on_plan(plans)
    report = _report_so_far(run, plans)
    plan_of = {(plan.source, plan.set_name): plan for plan in plans}

    def listen(event: BuildEvent) -> None:
        on_event(event)
        if event.report is not None:
            report.add(event.report)
            _stop_if_too_bad(run, report, plan_of[event.work.source, event.work.set_name])

    works = [work for plan in plans for work in plan.works()]
    try:
        if works and runner == "ray":
            from stillroom.pipeline.build.ray_runner import run_on_ray

            check_before_build(opened, plans, here=False)
            report.quarantined = run_on_ray(run, works, address, listen)
            _stop_if_given_up(run, report.quarantined)
        elif works:
            run_inline(opened, works, listen, check_before_build(opened, plans, here=True))
    finally:
        del opened  # the listing's memory serves for the catalogues
        _save_catalogues(run, plans)
    report.bad_frames = _bad_frames(run, plans) if any(report.bad.values()) else 0
    report.wall_seconds = time.perf_counter() - started
    return report


def _stop_if_given_up(run: RunConfig, quarantined: dict[ShardWork, str]) -> None:
    if not quarantined:
        return
    listing = "\n".join(
        f"  {work.source}/{work.set_name} shard {work.shard}: {reason}"
        for work, reason in quarantined.items()
    )
    raise CacheIncomplete(
        f"{run.cache.path}: {len(quarantined)} shards failed three times each, all others are "
        f"committed\n{listing}\n  mend the cause, then run the same command again"
    )


def run_inline(
    opened: OpenedRun,
    works: list[ShardWork],
    listen: Callable[[BuildEvent], None],
    models: ModelLoader | None = None,
) -> None:
    """Work the shards off in this process, two at a time around one teacher.

    The first failure ends the build: here a traceback serves better than a retry.

    models: as for `ShardWorker`
    """
    stop = threading.Event()

    def give_up_if_stopped() -> None:
        if stop.is_set():
            raise _Stopped

    def one(work: ShardWork) -> ShardReport:
        def on_frames(frames: int) -> None:
            give_up_if_stopped()
            listen(BuildEvent(work, frames=frames))

        return worker.work(work, on_frames, give_up_if_stopped)

    # What this process does next, training perhaps, has its own number of threads.
    with threads(opened.run.cache.threads), ThreadPoolExecutor(2, "shard") as pool:
        worker = ShardWorker(opened, models)
        try:
            # All of one teacher's shards end before the next teacher takes its memory.
            for _, group in groupby(works, key=lambda work: work.set_name):
                for work, report in _in_flight(pool, one, group):
                    listen(BuildEvent(work, report=report))
        except BaseException as error:
            stop.set()  # the shard in the other thread is given up before its next batch
            if isinstance(error, KeyboardInterrupt):  # whoever asked to stop is kept waiting
                LOG.warning(
                    "stopping: the batch in hand is finished first; what is committed stays"
                )
            raise


class _Stopped(Exception):
    """Another shard failed or the user interrupted: this one is given up, uncommitted."""


def _in_flight(
    pool: ThreadPoolExecutor, one: Callable[[ShardWork], ShardReport], works: Iterable[ShardWork]
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


def _report_so_far(run: RunConfig, plans: list[SetPlan]) -> BuildReport:
    """The report to begin with: it knows the frames that earlier builds found unusable.

    Raises:
        TooManyBadFrames: those are too many already.
    """
    report = BuildReport(plans)
    for plan in plans:
        report.bad[plan.source, plan.set_name] = len(_bad_rows(run, plan))
        _stop_if_too_bad(run, report, plan)
    return report


def _bad_rows(run: RunConfig, plan: SetPlan) -> list[FrameRow]:
    """The unusable frames of a set among the shards that are committed by now."""
    try:
        target = Cache.open(run.cache.path).artifact_set(plan.source, plan.set_name)
    except CacheIncomplete:
        return []  # nothing of it has been built yet
    return bad_rows(target.rows())


def _bad_frames(run: RunConfig, plans: list[SetPlan]) -> int:
    """Frames with an unusable row in any set; a bad pair of frames does not tell which it is."""
    rows = ((plan, row) for plan in plans for row in _bad_rows(run, plan))
    return len({(p.source, row.frame_id) for p, row in rows if p.set_name not in run.flows})


def _save_catalogues(run: RunConfig, plans: list[SetPlan]) -> None:
    """Leave the manifests of large sets quick to open, however the build ended."""
    with suppress(StillroomError):  # what went wrong is told already, and nothing depends on them
        for plan in plans:
            Cache.open(run.cache.path).artifact_set(plan.source, plan.set_name).save_catalogue()


def _stop_if_too_bad(run: RunConfig, report: BuildReport, plan: SetPlan) -> None:
    limit = run.cache.max_bad_fraction * plan.frames
    if report.bad[plan.source, plan.set_name] <= limit:
        return
    # Another shard may be committed by now that the report has not heard of: the rows have it all.
    rows = _bad_rows(run, plan)
    if len(rows) > limit:
        raise TooManyBadFrames(
            f"{plan.source}/{plan.set_name}: {len(rows)} of {plan.frames} frames are unusable so "
            f"far, more than cache.max_bad_fraction = {run.cache.max_bad_fraction:g} allows\n"
            + _reasons(rows)
            + "  see all of them with `stillroom cache info RUN.toml --bad`; "
            + _remedies(rows, teacher_of(plan.set_name))
            + " and build into another cache.path, or raise the limit; committed shards stay"
        )


def _remedies(rows: list[FrameRow], model: str) -> str:
    """What mends the causes of such rows, as far as their reasons tell those apart."""
    output = [NOT_FINITE in row.reason for row in rows]
    remedies = [] if all(output) else ["mend the source"]
    if any(output):
        remedies.append(f"check the weights and the precision of {model!r}")
    return ", ".join(remedies)


def _reasons(rows: list[FrameRow]) -> str:
    """The most frequent reasons, a line each; reasons that differ in names and numbers are one."""
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        kind = NUMBER.sub("#", row.reason.replace(row.frame_id, "#"))
        kinds[kind].append(row.reason)
    most = sorted(kinds.values(), key=len, reverse=True)[:SHOWN_REASONS]
    return "".join(f"  {len(reasons)} x {reasons[0]}\n" for reasons in most)
