"""`stillroom sweep`: one cache, many students. Running it again goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build.plan import plan_build
from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.faults import nearest
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.pipeline.run_file.sections import as_document
from stillroom.pipeline.sweep.results import document, rows_of
from stillroom.pipeline.sweep.state import Ledger, State, refuse_changed, set_aside
from stillroom.pipeline.sweep.tables import write_table
from stillroom.pipeline.sweep.trials import Order, run_children
from stillroom.pipeline.video import follow_clips
from stillroom.stages.train.run_folder import read_json, write_json
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.pipeline.sweep.file import Sweep, Work
    from stillroom.pipeline.sweep.results import Row
    from stillroom.pipeline.sweep.trials import ChildEvent

TABLE, RESULTS, CHART, CLASSES = "table.md", "results.json", "miou.png", "classes.png"
LOGS = "logs"


@dataclass(frozen=True)
class SweepPlan:
    """What there is to do.

    states: of every teacher and student of the sweep
    chosen: those to be done now, where they are not done
    missing_shards: of the cache; None where it cannot be known, since a source's files are away
    """

    sweep: Sweep
    states: dict[Work, State]
    chosen: tuple[Work, ...]
    missing_shards: int | None

    @property
    def pending(self) -> list[Work]:
        """What of the chosen is not done."""
        return [work for work in self.chosen if self.states[work].kind != "done"]


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    rows: of the table, what was done before included
    failed: by its work, what was said of it
    files: the table, the results, the charts
    """

    sweep: Sweep
    rows: list[Row]
    failed: dict[Work, str]
    files: tuple[Path, ...] = field(default=())


@dataclass(frozen=True)
class Hooks:
    """How a sweep does what other commands do as well, and whom it tells.

    build_cache: of the run, where shards are missing
    follow_clips: of the run, along which all of them are scored: their flow is computed once
    listen: told what happens to each piece of work
    """

    build_cache: Callable[[RunConfig], object] = build
    follow_clips: Callable[[RunConfig], object] = follow_clips
    listen: Callable[[ChildEvent], None] = lambda _: None


def plan_sweep(sweep: Sweep, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> SweepPlan:
    """Look what is there, and change nothing.

    only, seeds: these variants and seeds are chosen; all of them if left out

    Raises:
        ConfigError: there is no such variant; a source or a record cannot be read.
        CacheMismatch: the cache was built from something else than the run file says.
    """
    known = list(sweep.config.variants)
    for name in only:
        if name not in known:
            raise ConfigError(f"--only {name!r}: no such variant{nearest(name, known)}")
    missing = _missing_shards(sweep.run)
    ledger = Ledger(sweep.run)
    works = (*sweep.teachers, *sweep.students)
    chosen = tuple(
        work
        for work in works
        if work.seed is None
        or ((not only or work.row in only) and (not seeds or work.seed in seeds))
    )
    return SweepPlan(sweep, {work: ledger.state(work) for work in works}, chosen, missing)


def run_sweep(
    plan: SweepPlan,
    *,
    retrain: bool = False,
    per_class: bool = False,
    hooks: Hooks = Hooks(),
) -> SweepResult:
    """Build what is missing of the cache, do what is not done, and write table and charts.

    retrain: where folders hold students of another config, put them aside and train anew
    per_class: also draw the IoU of every class

    Raises:
        ConfigError: a folder holds another student, and is not to be put aside.
        CacheError: the cache cannot be built.
    """
    sweep, pending = plan.sweep, plan.pending
    if not retrain:
        refuse_changed(pending, [plan.states[work] for work in pending])
    if plan.missing_shards and pending:
        hooks.build_cache(sweep.run)
    if pending and sweep.has_video:
        hooks.follow_clips(sweep.run)
    for work in pending:
        if plan.states[work].kind == "changed":
            set_aside(work)
    settings = sweep.config
    orders = (_order(sweep, work, plan.states[work]) for work in pending)
    failed = run_children(orders, settings.parallel, settings.threads, hooks.listen)
    done = {work: state.result for work, state in plan.states.items() if state.result is not None}
    done |= {work: read_json(work.record) for work in pending if work not in failed}
    rows = rows_of(sweep, done)
    return SweepResult(sweep, rows, failed, _write(sweep, rows, failed, per_class))


def _missing_shards(run: RunConfig) -> int | None:
    opened = open_run(run, must_exist=False)
    if opened.absent:
        return None  # training may do without them, where the cache has their frames
    return sum(len(plan.missing) for plan in plan_build(opened))


def _order(sweep: Sweep, work: Work, state: State) -> Order:
    """What the process of a piece of work is told."""
    keep: dict[str, Any] = {
        "scored": state.scored,
        "made_by": {
            "sweep": str(sweep.file),
            "run": str(sweep.config.run),
            "run_file": sweep.run_text,
            "set": dict(sweep.config.set),
            "command_line": list(sweep.overrides),
            "variant": work.row,
            "overrides": dict(work.overrides),
            "config": as_document(work.run),
        },
    }
    task = {
        "document": work.document,
        "origin": f"{sweep.file}, {work.name}",
        "teacher": None if work.seed is not None else work.row.removeprefix("teacher:"),
        "threads": sweep.config.threads,
        "record": str(work.record),
        "keep": keep,
    }
    name = work.record.stem if work.seed is None else work.record.parent.name
    return Order(work, task, sweep.config.path / LOGS / f"{name}.log")


def _write(
    sweep: Sweep, rows: Sequence[Row], failed: dict[Work, str], per_class: bool
) -> tuple[Path, ...]:
    """The files that a sweep leaves beside its run folders."""
    from stillroom.pipeline.sweep.chart import draw_classes, draw_miou

    folder = sweep.config.path
    write_json(folder / RESULTS, document(sweep, rows, failed))
    write_table(folder / TABLE, sweep, rows)
    written = [folder / TABLE, folder / RESULTS]
    if any(row.students for row in rows):
        written.append(draw_miou(folder / CHART, sweep, rows))
        if per_class:
            written.append(draw_classes(folder / CLASSES, sweep, rows))
    return tuple(written)
