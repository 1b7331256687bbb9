"""The results of a sweep: by student, and over the seeds of each variant."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from stillroom.stages.evaluate.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Sequence
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
        miou, pixel_accuracy: None where no classes were scored
        iou: by class, None where the test frames have no pixel of it
        tasks: scores of further tasks, as "depth/rel"
    """

    seed: int | None
    folder: str | None
    miou: float | None
    pixel_accuracy: float | None
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
    tasks: dict[str, float] = field(default_factory=dict)

    def score(self, measure: str) -> float | None:
        """Return one of `MEASURES`, or of its tasks' scores."""
        found: float | None = self.tasks.get(measure) if "/" in measure else getattr(self, measure)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        found = asdict(self)
        if not self.tasks:
            del found["tasks"]
        return found


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
        gain: mean of the main measure less that of the baseline; None where one is not there
    """

    name: str
    overrides: dict[str, Any]
    students: tuple[Outcome, ...]
    gain: float | None = None
    stopped: tuple[Stopped, ...] = ()

    def spread(self, measure: str) -> Spread | None:
        """Return the spread of one of `MEASURES`, or of a task's score, over the students."""
        return spread([student.score(measure) for student in self.students])

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
            "students": [student.to_dict() for student in self.students],
            **{measure: _dict(self.spread(measure)) for measure in task_measures([self])},
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


def task_measures(rows: Sequence[Row]) -> list[str]:
    """Name the scores of further tasks, in their order, as "depth/rel"."""
    return list(dict.fromkeys(name for row in rows for one in row.students for name in one.tasks))


def main_measure(rows: Sequence[Row]) -> str:
    """Name what the table is about: mIoU, or the first score of what has no classes."""
    scored = [one for row in rows for one in row.students]
    of_tasks = task_measures(rows)
    return of_tasks[0] if of_tasks and all(one.miou is None for one in scored) else "miou"


def ranking_measure(rows: Sequence[Row]) -> str:
    """Name the score, higher is better, that goes with the main measure."""
    main = main_measure(rows)
    return main if main == "miou" else TASKS[main.partition("/")[0]].best


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the variant whose students score highest; None where no student is done.

    By validation where every student has one, so that test frames choose nothing; else by test.
    """
    done = [row for row in rows if any(student.seed is not None for student in row.students)]
    known = all(student.validation is not None for row in done for student in row.students)
    by = "validation" if known else ranking_measure(rows)
    means = {row.name: found.mean for row in done if (found := row.spread(by)) is not None}
    return max(done, key=lambda row: means[row.name], default=None)


def _dict(found: Spread | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)
