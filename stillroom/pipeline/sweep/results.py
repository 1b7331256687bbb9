"""What the students of a sweep are worth: by student, and over the seeds of each variant."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stillroom.pipeline.sweep.file import Sweep, Work


@dataclass(frozen=True)
class Spread:
    """A number over the seeds of a variant.

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
    """What one student, or a teacher, came to.

    seed: None of a teacher
    waiting: share of the training time that was spent waiting for data
    seconds_per_step, waiting: None of a teacher
    tc, tc_visible, stability: along clips, None where they were not followed
    stay: share of the visible pixels that keep their class; of all, where visibility is unknown
    tc_by_class: tc class by class, None where one is not predicted at all
    tc_shared: its mean over the classes that every student of the sweep predicts along the clips:
        in tc a class that is predicted on a few pixels counts as much as any
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


@dataclass(frozen=True)
class Row:
    """A variant with the students that are done, or a teacher.

    gain: mean mIoU less that of the baseline; None where one of them is not there
    """

    name: str
    overrides: dict[str, Any]
    students: tuple[Outcome, ...]
    gain: float | None = None

    def spread(self, measure: str) -> Spread | None:
        """Of one of `MEASURES`."""
        return spread([getattr(student, measure) for student in self.students])

    def iou(self, name: str) -> Spread | None:
        """Of one class."""
        return spread([student.iou.get(name) for student in self.students])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none where nothing is done."""
        return tuple(self.students[0].iou) if self.students else ()


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
    """Mean and spread of what is known; None of nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean, n = math.fsum(known) / len(known), len(known)
    std = None
    if n > 1:
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (n - 1))
    return Spread(mean, std, min(known), max(known), n)


def rows_of(sweep: Sweep, records: Mapping[Work, Mapping[str, Any]]) -> list[Row]:
    """A row a teacher, then a row a variant, as far as they are done.

    records: by their work, of what is done
    """
    rows = [
        Row(work.row, {}, (_outcome(work, records[work]),) if work in records else ())
        for work in sweep.teachers
    ]
    found = {
        name: tuple(
            _outcome(work, records[work])
            for work in sweep.students
            if work.row == name and work in records
        )
        for name in sweep.config.variants
    }
    base = spread([student.miou for student in found[sweep.baseline]])
    for name, students in found.items():
        mine = spread([student.miou for student in students])
        gain = None if mine is None or base is None else mine.mean - base.mean
        rows.append(Row(name, dict(sweep.config.variants[name]), students, gain))
    return _with_shared_classes(rows)


def _with_shared_classes(rows: list[Row]) -> list[Row]:
    """The same, each outcome with its TC over the classes that all students predict."""
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


def _outcome(work: Work, record: Mapping[str, Any]) -> Outcome:
    test, train = record["test"], record.get("train")
    pace = waiting = None
    if train is not None:
        pace = train["seconds"] / train["steps"]
        waiting = train["wait_seconds"] / train["seconds"] if train["seconds"] else 0.0
    return Outcome(
        seed=work.seed,
        folder=None if work.seed is None else str(work.record.parent),
        miou=test["miou"],
        pixel_accuracy=test["pixel_accuracy"],
        iou={entry["name"]: entry["iou"] for entry in test["classes"]},
        seconds_per_step=pace,
        waiting=waiting,
        peak_memory_mb=record.get("peak_memory_mb"),
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


def document(sweep: Sweep, rows: Sequence[Row], failed: Mapping[Work, str]) -> dict[str, Any]:
    """Everything as JSON."""
    return {
        "sweep": str(sweep.file),
        "run": str(sweep.config.run),
        "set": dict(sweep.config.set),
        "command_line": list(sweep.overrides),
        "seeds": list(sweep.config.seeds),
        "parallel": sweep.config.parallel,
        "threads": sweep.config.threads,
        "baseline": sweep.baseline,
        "rows": [
            {
                "name": row.name,
                "overrides": row.overrides,
                "students": [asdict(student) for student in row.students],
                **{measure: _dict(row.spread(measure)) for measure in MEASURES},
                "gain": row.gain,
                "iou": {name: _dict(row.iou(name)) for name in row.classes},
            }
            for row in rows
        ],
        "failed": [
            {"name": work.name, "row": work.row, "seed": work.seed, "problem": problem}
            for work, problem in failed.items()
        ],
    }


def _dict(found: Spread | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)
