"""The rows of a sweep's table, from the records of its trials."""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.sweep.results import Outcome, Row, Stopped, main_measure, spread
from stillroom.stages.evaluate.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stillroom.pipeline.sweep.file import Sweep, Trial


def rows_of(
    sweep: Sweep,
    records: Mapping[Trial, Mapping[str, Any]],
    stopped: Mapping[Trial, Mapping[str, Any]] = MappingProxyType({}),
) -> list[Row]:
    """Return a row a teacher, then a row a variant, with the trials that are done.

    Args:
        records: of these, by trial
        stopped: step and score of those that were stopped early
    """

    def outcomes(trials: Sequence[Trial]) -> tuple[Outcome, ...]:
        return tuple(_outcome(trial, records[trial]) for trial in trials if trial in records)

    found = {
        name: outcomes([trial for trial in sweep.students if trial.row == name])
        for name in sweep.variants
    }
    rows = [Row(trial.row, {}, outcomes([trial])) for trial in sweep.teachers]
    main = main_measure([Row(name, {}, students) for name, students in found.items()])
    base = spread([student.score(main) for student in found.get(sweep.baseline or "", ())])
    for name, students in found.items():
        mine = spread([student.score(main) for student in students])
        gain = None if mine is None or base is None else mine.mean - base.mean
        ended = tuple(
            Stopped(trial.seed or 0, **values)
            for trial, values in stopped.items()
            if trial.row == name
        )
        rows.append(Row(name, dict(sweep.variants[name]), students, gain, ended))
    return _with_shared_classes(rows)


def _with_shared_classes(rows: list[Row]) -> list[Row]:
    """Fill in each outcome's TC over the classes that all students predict."""
    everyone = [one for row in rows for one in row.students]
    students = [one.tc_by_class for one in everyone if one.seed is not None and one.tc_by_class]
    shared = [
        place
        for place, values in enumerate(zip(*students, strict=True))
        if all(value is not None for value in values)
    ]

    def shared_tc(one: Outcome) -> float | None:
        values = [one.tc_by_class[place] for place in shared] if one.tc_by_class else []
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if known and len(known) == len(shared) else None

    return [
        replace(row, students=tuple(replace(o, tc_shared=shared_tc(o)) for o in row.students))
        for row in rows
    ]


def _outcome(trial: Trial, record: Mapping[str, Any]) -> Outcome:
    test, train = record["test"], record.get("train")
    pace = waiting = None
    if train is not None:
        pace = train["seconds"] / train["steps"]
        waiting = train["wait_seconds"] / train["seconds"] if train["seconds"] else 0.0
    return Outcome(
        seed=trial.seed,
        folder=None if trial.seed is None else str(trial.place),
        miou=test.get("miou"),
        pixel_accuracy=test.get("pixel_accuracy"),
        iou={entry["name"]: entry["iou"] for entry in test.get("classes", ())},
        seconds_per_step=pace,
        waiting=waiting,
        peak_memory_mb=record.get("peak_memory_mb"),
        validation=None if train is None else train.get("best_score"),
        tasks=_scores_of_tasks(test),
        **_steadiness(test.get("video")),
    )


def _scores_of_tasks(test: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of further tasks, which are the fractions among what is said of them."""
    return {
        f"{task}/{name}": score
        for task in TASKS
        for name, score in test.get(task, {}).items()
        if isinstance(score, float)
    }


def _steadiness(video: Mapping[str, Any] | None) -> dict[str, Any]:
    if video is None:
        return {}
    visible = video["consistency"]["visible"]
    return {
        "tc": video["consistency"]["whole"]["miou"],
        "tc_visible": None if visible is None else visible["miou"],
        "stability": video["stability"],
        "stay": (visible or video["consistency"]["whole"])["pixels"],
        "tc_by_class": tuple(video["consistency"]["whole"]["iou"]),
    }
