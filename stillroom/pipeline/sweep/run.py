"""`stillroom sweep`: one cache, many students. Running it again goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build.cores import cores_here
from stillroom.pipeline.build.plan import plan_build
from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.faults import nearest
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.pipeline.run_file.sections import as_document
from stillroom.pipeline.run_file.writing import as_toml
from stillroom.pipeline.sweep.devices import places, visible_gpus
from stillroom.pipeline.sweep.results import SweepResult, main_measure
from stillroom.pipeline.sweep.rounds import with_rounds
from stillroom.pipeline.sweep.rows import rows_of
from stillroom.pipeline.sweep.state import (
    ENDED,
    State,
    SweepRecords,
    mark_failed,
    refuse_changed,
    set_aside,
)
from stillroom.pipeline.sweep.tables import write_table
from stillroom.pipeline.sweep.trials import TrialJob, run_trials
from stillroom.pipeline.sweep.tune_runner import Ends, run_on_tune
from stillroom.pipeline.video import compute_clip_flow
from stillroom.stages.train.run_folder import read_json, write_json
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.pipeline.sweep.file import Sweep, Trial
    from stillroom.pipeline.sweep.results import Row
    from stillroom.pipeline.sweep.trials import OnEvent

TABLE, RESULTS, CHART, CLASSES = "table.md", "results.json", "miou.png", "classes.png"
SCORES = "scores.png"  # in place of the chart of mIoU, where no classes were scored
LOGS = "logs"


@dataclass(frozen=True)
class SweepPlan:
    """What there is to do.

    Attributes:
        states: of every trial of the sweep
        chosen: those to be run now, where they are not done
        missing_shards: of the cache; None where it cannot be known, since a source's files are away
    """

    sweep: Sweep
    states: dict[Trial, State]
    chosen: tuple[Trial, ...]
    missing_shards: int | None

    @property
    def pending(self) -> list[Trial]:
        """The chosen trials that have not ended."""
        return [trial for trial in self.chosen if self.states[trial].kind not in ENDED]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON."""
        runs = [
            {
                "name": trial.row,
                "seed": trial.seed,
                "state": state.kind,
                "folder": str(trial.place),
                "chosen": trial in self.chosen,
                "differences": list(state.differences),
            }
            for trial, state in self.states.items()
        ]
        return {"missing_shards": self.missing_shards, "runs": runs}


@dataclass(frozen=True)
class Hooks:
    """How a sweep does what other commands do as well, and what it reports to.

    Attributes:
        build_cache: called with the run where shards are missing
        compute_flow: called with the run to compute the flow of its clips, once for all trials
        on_event: called with what happens to each trial
        on_round: called with the plan of each round that a controller draws after the first
    """

    build_cache: Callable[[RunConfig], object] = build
    compute_flow: Callable[[RunConfig], object] = compute_clip_flow
    on_event: OnEvent = lambda _: None
    on_round: Callable[[SweepPlan], None] = lambda _: None


def plan_sweep(
    sweep: Sweep,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    *,
    teachers_only: bool = False,
) -> SweepPlan:
    """Read what is done, and change nothing.

    Args:
        only, seeds: these variants and seeds are chosen; all of them if left out
        teachers_only: no variant is

    Raises:
        ConfigError: there is no such variant; a source or a record cannot be read.
        CacheMismatch: the cache was built from something else than the run file names.
    """
    config = sweep.config
    in_rounds = config.controller is not None
    records = SweepRecords(sweep.run, early=config.asha is not None, rounds=in_rounds)
    if in_rounds:
        sweep = with_rounds(sweep, records.state)
    known = list(sweep.variants)
    for name in only:
        if name not in known:
            raise ConfigError(f"--only {name!r}: no such variant{nearest(name, known)}")
    missing = _missing_shards(sweep.run)
    trials = (*sweep.teachers, *sweep.students)
    students = () if teachers_only else sweep.students
    chosen = (
        *sweep.teachers,
        *(
            trial
            for trial in students
            if (not only or trial.row in only) and (not seeds or trial.seed in seeds)
        ),
    )
    return SweepPlan(sweep, {trial: records.state(trial) for trial in trials}, chosen, missing)


def run_sweep(
    plan: SweepPlan,
    *,
    retrain: bool = False,
    per_class: bool = False,
    address: str | None = None,
    hooks: Hooks = Hooks(),
) -> SweepResult:
    """Build what is missing of the cache, do what is not done, and write table and charts.

    Where a controller draws the points, round follows round until all its draws are done.

    Args:
        retrain: where folders hold students of another config, put them aside and train anew
        per_class: also draw the IoU of every class
        address: of a Ray cluster, whose nodes train the students; None trains them here

    Raises:
        ConfigError: a folder holds another student, and is not to be put aside.
        CacheError: the cache cannot be built.
    """
    ends = _run_pending(plan, retrain, address, hooks)
    failed = dict(ends.failed)
    while (later := _next_round(plan, ends.failed)) is not None:
        plan = later
        hooks.on_round(plan)
        ends = _run_pending(plan, retrain, address, hooks)
        failed |= ends.failed
    result = SweepResult(plan.sweep, _rows(plan, ends), failed)
    return replace(result, files=_write(result, per_class))


def _next_round(plan: SweepPlan, failed: Mapping[Trial, str]) -> SweepPlan | None:
    """Return the plan with what a controller draws next; None where it draws nothing more.

    Students that failed are given up, unless all of the round did, for what may be mended.
    """
    sweep = plan.sweep
    if not sweep.rounds or any(one not in plan.chosen for one in sweep.students):
        return None
    if all(one in failed for one in sweep.students if one.row in sweep.rounds[-1]):
        return None
    for trial, problem in failed.items():
        if trial.seed is not None:
            mark_failed(trial, problem)
    later = plan_sweep(sweep)
    return later if len(later.sweep.rounds) > len(sweep.rounds) else None


def _run_pending(plan: SweepPlan, retrain: bool, address: str | None, hooks: Hooks) -> Ends:
    """Build what is missing of the cache, and do what is not done."""
    sweep, pending = plan.sweep, plan.pending
    if address is None:
        _demand_no_asha(sweep, pending)
    free = () if address else places(sweep.config, visible_gpus(), cores_here())
    if not retrain:
        refuse_changed({trial: plan.states[trial] for trial in pending})
    if plan.missing_shards and pending:
        hooks.build_cache(sweep.run)
    if pending and sweep.has_video:
        hooks.compute_flow(sweep.run)
    for trial in pending:
        if plan.states[trial].kind == "changed":
            set_aside(trial)
    jobs = [_job(sweep, trial, plan.states[trial]) for trial in pending]
    if address is None or not jobs:
        return Ends(run_trials(jobs, free, sweep.config.retries, hooks.on_event))
    before = [one for one in sweep.students if plan.states[one].kind in ENDED]
    return run_on_tune(sweep, jobs, before, address, hooks.on_event)


def _rows(plan: SweepPlan, ends: Ends) -> list[Row]:
    """Return the rows of the table, after the pending trials have ended."""
    states, undone = plan.states.items(), ends.failed.keys() | ends.stopped.keys()
    done = {trial: state.result for trial, state in states if state.result is not None}
    done |= {trial: read_json(trial.record) for trial in plan.pending if trial not in undone}
    stopped = {trial: state.stopped for trial, state in states if state.stopped is not None}
    return rows_of(plan.sweep, done, stopped | ends.stopped)


def _demand_no_asha(sweep: Sweep, pending: Sequence[Trial]) -> None:
    if sweep.config.asha is not None and any(trial.seed is not None for trial in pending):
        raise ConfigError(
            "asha: Ray Tune stops students early: give --address HOST:PORT of a cluster, or "
            "--address local to start one on this machine; or leave asha out"
        )


def _missing_shards(run: RunConfig) -> int | None:
    opened = open_run(run, must_exist=False)
    if opened.absent:
        return None  # training may do without them, where the cache has their frames
    return sum(len(plan.missing) for plan in plan_build(opened))


def _job(sweep: Sweep, trial: Trial, state: State) -> TrialJob:
    """Return what the process of a trial is to do, and where it logs."""
    made_by = {
        "sweep": str(sweep.file),
        "run": str(sweep.config.run),
        "run_file": sweep.run_text,
        "set": dict(sweep.config.set),
        "command_line": list(sweep.overrides),
        "variant": trial.row,
        "overrides": dict(trial.overrides),
        "config": as_document(trial.run),
    }
    task = {
        "document": trial.document,
        "origin": f"{sweep.file}, {trial.name}",
        "teacher": trial.teacher,
        "threads": sweep.config.threads,
        "record": str(trial.record),
        "run_file": _run_file(sweep, trial),
        "keep": {"scored": state.scored, "made_by": made_by},
    }
    return TrialJob(trial, task, sweep.config.path / LOGS / f"{trial.place.stem}.log")


def _run_file(sweep: Sweep, trial: Trial) -> str:
    """Return the run file of one trial, with which `stillroom train` makes the same student."""
    head = (
        f"{trial.name}, of {sweep.file}, run in {Path.cwd()} with {sweep.config.threads} torch "
        "thread(s)\nelsewhere: stillroom train THIS_FILE --set train.path=FOLDER\n"
    )
    return "".join(f"# {line}\n" for line in head.splitlines()) + "\n" + as_toml(trial.document)


def _write(result: SweepResult, per_class: bool) -> tuple[Path, ...]:
    """Write the files that a sweep leaves beside its run folders."""
    from stillroom.pipeline.sweep.chart import draw_classes, draw_scores

    sweep, rows, folder = result.sweep, result.rows, result.sweep.config.path
    write_json(folder / RESULTS, result.to_dict())
    write_table(folder / TABLE, sweep, rows)
    written = [folder / TABLE, folder / RESULTS]
    if any(row.students for row in rows):
        of_classes = main_measure(rows) == "miou"
        written.append(draw_scores(folder / (CHART if of_classes else SCORES), sweep, rows))
        if per_class and of_classes:
            written.append(draw_classes(folder / CLASSES, sweep, rows))
    return tuple(written)
