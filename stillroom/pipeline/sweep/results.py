"""The results of a sweep: by student, and over the seeds of each variant."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from stillroom.pipeline.sweep.file import Sweep, Trial


@dataclass(frozen=True)
class Spread:
    """A number over the seeds of a variant.

    Attributes:
        std: of a sample (n - 1), None of a single one
        n: how many there are
    """

    mean: float
    std: float | None
    min: float
    max: float
    n: int


@dataclass(frozen=True)
class Outcome:
    """The scores and costs of one student, or of a teacher.

    Attributes:
        seed: None of a teacher
        waiting: share of the training time that was spent waiting for data
        seconds_per_step, waiting: None of a teacher
        tc, tc_visible, stability: along clips, None where these were not scored
        validation: the best mIoU of a student's validations; None where there were none
        stay: share of the visible pixels that keep their class; of all, where visibility is unknown
        tc_by_class: tc class by class, None where one is not predicted at all
        tc_shared: its mean over the classes that every student of the sweep predicts along the
            clips: in tc a class that is predicted on a few pixels counts as much as any
        iou: by class, None where the test frames have no pixel of it
    """

    seed: int | None
    folder: str | None
    miou: float
    pixel_accuracy: float
    iou: dict[str, float | None]
    seconds_per_step: float | None
    waiting: float | None
    peak_memory_mb: float | None
    tc: float | None = None
    tc_visible: float | None = None
    stability: float | None = None
    tc_by_class: tuple[float | None, ...] = ()
    tc_shared: float | None = None
    stay: float | None = None
    validation: float | None = None


@dataclass(frozen=True)
class Stopped:
    """A student that was stopped early, with its score at that step; it is in no mean."""

    seed: int
    step: int
    miou: float


@dataclass(frozen=True)
class Row:
    """A variant with the students that are done, or a teacher.

    Attributes:
        stopped: its students that were stopped early
        gain: mean mIoU less that of the baseline; None where one of them is not there
    """

    name: str
    overrides: dict[str, Any]
    students: tuple[Outcome, ...]
    gain: float | None = None
    stopped: tuple[Stopped, ...] = ()

    def spread(self, measure: str) -> Spread | None:
        """Return the spread of one of `MEASURES` over the students."""
        return spread([getattr(student, measure) for student in self.students])

    def iou(self, name: str) -> Spread | None:
        """Return the spread of the IoU of one class over the students."""
        return spread([student.iou.get(name) for student in self.students])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none where nothing is done."""
        return tuple(self.students[0].iou) if self.students else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON."""
        return {
            "name": self.name,
            "overrides": self.overrides,
            "students": [asdict(student) for student in self.students],
            **{measure: _dict(self.spread(measure)) for measure in MEASURES},
            "gain": self.gain,
            "iou": {name: _dict(self.iou(name)) for name in self.classes},
            "stopped": [asdict(student) for student in self.stopped],
        }


@dataclass(frozen=True)
class SweepResult:
    """The results of a sweep.

    Attributes:
        rows: of the table, with what was done before
        failed: by trial, its error message
        files: the table, the results, the charts
    """

    sweep: Sweep
    rows: list[Row]
    failed: dict[Trial, str]
    files: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return settings, rows and failures as JSON."""
        config, best = self.sweep.config, best_row(self.rows)
        return {
            "sweep": str(self.sweep.file),
            "run": str(config.run),
            "set": dict(config.set),
            "command_line": list(self.sweep.overrides),
            "seeds": list(config.seeds),
            "parallel": config.parallel,
            "threads": config.threads,
            "baseline": self.sweep.baseline,
            "best": None if best is None else best.name,
            "rows": [row.to_dict() for row in self.rows],
            "failed": [
                {"name": trial.name, "row": trial.row, "seed": trial.seed, "problem": problem}
                for trial, problem in self.failed.items()
            ],
        }


MEASURES = (
    "miou",
    "pixel_accuracy",
    "tc",
    "tc_visible",
    "tc_shared",
    "stay",
    "stability",
    "seconds_per_step",
    "waiting",
    "peak_memory_mb",
)


def spread(values: Sequence[float | None]) -> Spread | None:
    """Return mean and spread of the known values; None where there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean, n = math.fsum(known) / len(known), len(known)
    std = None
    if n > 1:
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (n - 1))
    return Spread(mean, std, min(known), max(known), n)


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the variant whose students score highest; None where no student is done.

    By validation where every student has one, so that test frames choose nothing; else by test.
    """
    done = [row for row in rows if any(student.seed is not None for student in row.students)]
    known = all(student.validation is not None for row in done for student in row.students)
    by = "validation" if known else "miou"
    means = {row.name: found.mean for row in done if (found := row.spread(by)) is not None}
    return max(done, key=lambda row: means[row.name], default=None)


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
    base = spread([student.miou for student in found.get(sweep.baseline or "", ())])
    rows = [Row(trial.row, {}, outcomes([trial])) for trial in sweep.teachers]
    for name, students in found.items():
        mine = spread([student.miou for student in students])
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
        miou=test["miou"],
        pixel_accuracy=test["pixel_accuracy"],
        iou={entry["name"]: entry["iou"] for entry in test["classes"]},
        seconds_per_step=pace,
        waiting=waiting,
        peak_memory_mb=record.get("peak_memory_mb"),
        validation=None if train is None else train.get("best_score"),
        **_steadiness(test.get("video")),
    )


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


def _dict(found: Spread | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)
