"""Stage one as a whole: plan, run the missing shards, stop where too much is bad."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from stillroom.pipeline.build.inline_runner import run_inline
from stillroom.pipeline.build.model_loader import check_before_build
from stillroom.pipeline.build.plan import SetPlan, plan_build
from stillroom.pipeline.build.report import (
    BuildEvent,
    BuildReport,
    count_bad_frames,
    report_so_far,
    stop_if_too_bad,
)
from stillroom.pipeline.build.sets import RunSet, define_set, stored_set
from stillroom.pipeline.label_check import check_built_labels, check_pseudo_labels
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.storage_specs.artifacts import FRAMES
from stillroom.storage_specs.errors import CacheIncomplete, StillroomError
from stillroom.storage_specs.layout import part_folder, part_path
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.pipeline.build.report import Listener
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.cache_shard import ShardWork


def build(
    run: RunConfig,
    *,
    runner: str = "inline",
    address: str | None = None,
    extend: bool = False,
    retry_bad: bool = False,
    on_plan: Callable[[list[SetPlan]], None] = lambda _: None,
    on_event: Listener = lambda _: None,
) -> BuildReport:
    """Compute and commit every shard that is missing; running it again resumes.

    Args:
        runner: "inline" here, or "ray", locally or on the cluster at `address`; the bytes are the
            same
        extend, retry_bad: as for `plan_build`; shards to be tried again are withdrawn once every
            model has been loaded, and are then missing like any other

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
    plans = plan_build(opened, extend=extend, retry_bad=retry_bad)
    on_plan(plans)
    report = report_so_far(run, plans)
    try:
        _run_missing(opened, plans, runner, address, _listener(run, report, on_event))
        _demand_there(run, plans)
    finally:
        del opened  # the listing's memory serves for the catalogues
        _save_catalogues(run, plans)
    check_built_labels(run, report)
    check_pseudo_labels(run, report)
    report.bad_frames = count_bad_frames(run, plans) if any(report.bad.values()) else 0
    report.wall_seconds = time.perf_counter() - started
    return report


def _listener(run: RunConfig, report: BuildReport, on_event: Listener) -> Listener:
    """Count what is committed, and stop the build where too much of it is bad."""
    plan_of = {(plan.source, plan.set_name): plan for plan in report.plans}

    def listen(event: BuildEvent) -> None:
        on_event(event)
        if event.report is not None:
            report.add(event.report)
            stop_if_too_bad(run, report, plan_of[event.work.source, event.work.set_name])

    return listen


def _run_missing(
    opened: OpenedRun, plans: list[SetPlan], runner: str, address: str | None, listen: Listener
) -> None:
    works = [work for plan in plans for work in plan.works()]
    if works and runner == "ray":
        from stillroom.pipeline.build.ray_runner import run_on_ray

        check_before_build(opened, plans, here=False)
        _define_frames(opened, plans)
        _withdraw_retried(opened.run, plans)
        _stop_if_given_up(opened.run, run_on_ray(opened.run, works, address, listen))
    elif works:
        models = check_before_build(opened, plans, here=True)
        _withdraw_retried(opened.run, plans)
        run_inline(opened, works, listen, models)


def _withdraw_retried(run: RunConfig, plans: list[SetPlan]) -> None:
    for plan in plans:
        stored = stored_set(run, plan.source, plan.set_name) if plan.retried else None
        if stored is not None:
            for shard in plan.retried_shards:
                stored.discard(shard)


def _define_frames(opened: OpenedRun, plans: list[SetPlan]) -> None:
    """Put the sources' groups there before many workers do so at once.

    A teacher's set puts a bare group for its source where there is none; a store that does not
    look for itself would let it through over the group of the frames.
    """
    cache = Cache.create(opened.run.cache.path)
    for plan in plans:
        if plan.missing and plan.set_name == FRAMES:
            define_set(opened, cache, RunSet(plan.source, FRAMES, plan.artifacts), None)


def _demand_there(run: RunConfig, plans: list[SetPlan]) -> None:
    """Look for all that the build has just written: a store may have lost what it took.

    Raises:
        CacheCorrupt: the definition of a set is gone.
        CacheIncomplete: records of shards are gone.
    """
    cache = Cache.open(run.cache.path)
    for plan in plans:
        if not plan.missing:
            continue
        cache.artifact_set(plan.source, plan.set_name)
        folder = part_folder(plan.source, plan.set_name)
        listed = {f"{folder}/{file.name}" for file in cache.store.files(folder)}
        places = {shard: part_path(plan.source, plan.set_name, shard) for shard in plan.missing}
        # A listing may lag behind: what is not in it is looked for itself.
        lost = [
            k for k, path in places.items() if path not in listed and not cache.store.exists(path)
        ]
        if lost:
            raise CacheIncomplete(
                f"{run.cache.path}: {len(lost)} shards of {plan.source}/{plan.set_name} were "
                f"written, and their records are not there (first {places[lost[0]]}); look at the "
                "disk or the store, then run the same command again"
            )


def _stop_if_given_up(run: RunConfig, given_up: dict[ShardWork, str]) -> None:
    if not given_up:
        return
    listing = "\n".join(
        f"  {work.source}/{work.set_name} shard {work.shard}: {reason}"
        for work, reason in given_up.items()
    )
    raise CacheIncomplete(
        f"{run.cache.path}: {len(given_up)} shards failed three times each, all others are "
        f"committed\n{listing}\n  mend the cause, then run the same command again"
    )


def _save_catalogues(run: RunConfig, plans: list[SetPlan]) -> None:
    """Leave the manifests of large sets quick to open, however the build ended."""
    with suppress(StillroomError):  # what went wrong is reported already; they only save time
        for plan in plans:
            Cache.open(run.cache.path).artifact_set(plan.source, plan.set_name).save_catalogue()
