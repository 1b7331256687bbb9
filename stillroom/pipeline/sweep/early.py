"""Early stopping by ASHA: students that score low where others were at the same step are stopped.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, algorithm 2
(arXiv:1810.05934), as Ray Tune has it. What students have scored is in their run folders: those
that ended in earlier calls are told to the scheduler again, so that a sweep that was killed goes on
against the same scores.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from stillroom.stages.train.metrics import read_metrics
from stillroom.stages.train.run_folder import write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.pipeline.sweep.sweep_settings import AshaConfig

STOPPED = "stopped.json"
STEP, SCORE = "validated", "miou"  # of the last validation, as students report them
NO_END = 10**12  # steps; how many a student takes is not known before it has opened the cache


def scheduler(settings: AshaConfig, every: int, ended: Iterable[Path]) -> Any:
    """Return Tune's scheduler, which knows the scores of those that have ended.

    Args:
        every: steps between two validations, the grace that is not set
        ended: their run folders
    """
    from ray.tune.schedulers import ASHAScheduler

    asha = ASHAScheduler(
        time_attr=STEP, metric=SCORE, mode="max", max_t=NO_END, stop_last_trials=False,
        grace_period=settings.grace or every, reduction_factor=settings.reduction_factor,
    )  # fmt: skip
    for folder in ended:
        known = SimpleNamespace(trial_id=str(folder))
        asha.on_trial_add(None, known)  # type: ignore[arg-type]
        for step, score in scores_of(folder):
            asha.on_trial_result(None, known, {STEP: step, SCORE: score})  # type: ignore[arg-type]
    return asha


def scores_of(folder: Path) -> Iterator[tuple[int, float]]:
    """Yield steps and scores of the validations of a run."""
    for line in read_metrics(folder):
        score = line.get("scores", {}).get("miou")
        if score is not None:
            yield line["step"], score


def validation_every(runs: Sequence[RunConfig]) -> int:
    """Return the fewest steps between two validations in any of the runs."""
    return min(run.train.validation.every for run in runs if run.train and run.train.validation)


def faults_of(settings: AshaConfig, runs: Sequence[RunConfig]) -> Iterator[str]:
    """Yield why none of these runs could be stopped early."""
    trains = [run.train for run in runs if run.train is not None]
    if any(train.validation is None for train in trains):
        yield "asha: compares scores while students train: give the run [train].validation"
    elif any(run.student is not None and not run.student.learns_classes() for run in runs):
        yield "asha: compares mIoU, and students here tell no classes: leave it out"
    elif trains:
        first = settings.grace or validation_every(runs)
        steps = [train.steps or NO_END for train in trains]  # of epochs nothing is known yet
        if first >= max(steps):
            yield (
                f"asha: the first rung is at step {first}, and no student takes more than "
                f"{max(steps)} steps: none would be stopped; make `grace` less"
            )


def mark_stopped(folder: Path, step: int, miou: float) -> None:
    """Write down that a run was stopped, and why."""
    write_json(folder / STOPPED, {"step": step, "miou": miou})
