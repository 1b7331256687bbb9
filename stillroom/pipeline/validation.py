"""Scores of a student while it trains: on which source, and of which tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.stages.class_lists import agree
from stillroom.stages.evaluate.tasks import TASKS, scored
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.artifacts import LABELS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.models.student import Student
    from stillroom.stages.sources.source import Source


def validation_source(run: RunConfig, student: Student, classes: tuple[str, ...]) -> Source | None:
    """Open what the student is scored on; None where that is nothing.

    Raises:
        ConfigError: it lacks the target of the student's first task, or has other classes.
    """
    if run.train is None or run.train.validation is None:
        return None
    name = run.train.validation.source
    source = open_source(run.sources[name])
    target = TASKS[scored(student.heads, "train.validation")].target
    if target not in run.targets_of(name):
        raise ConfigError(
            f"train.validation.source: {name!r} has no {target}; name a labelled source"
        )
    if target == LABELS and not agree(source.classes or (), classes):
        raise ConfigError(
            f"train.validation.source: its classes are {source.classes}, the student's {classes}"
        )
    return source


def validator(
    run: RunConfig, source: Source, student: Student
) -> Callable[[Student], Mapping[str, Any]]:
    """What scores the student while it trains: its classes, and further tasks by "depth/rel"."""
    from stillroom.stages.evaluate.evaluation import evaluate_source
    from stillroom.stages.evaluate.predict import StudentPredictor
    from stillroom.stages.evaluate.task_evaluation import evaluate_task

    asked = None if run.train is None else run.train.validation
    targets = () if asked is None else run.targets_of(asked.source)
    tasks = [task for task in student.heads if TASKS[task].target in targets]

    def validate(student: Student) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for task in tasks:
            predictor = StudentPredictor(student, TASKS[task].output)
            if TASKS[task].tally is None:
                found |= evaluate_source(predictor, source, run.cache.canvas).to_dict()
            else:
                scores = evaluate_task(predictor, source, task, run.cache.canvas).scores
                found |= {f"{task}/{name}": score for name, score in scores.items()}
        return found

    return validate
