"""Stage two as a whole: from a run file and its cache to a trained student."""

from __future__ import annotations

import logging
import math
from functools import reduce
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.heads_check import check_depth, check_heads
from stillroom.pipeline.label_check import check_labels
from stillroom.pipeline.live_teachers import build_live
from stillroom.pipeline.mix_check import mix_needs
from stillroom.pipeline.run_file.sections import as_document
from stillroom.pipeline.student_classes import student_classes
from stillroom.pipeline.training_checks import (
    check_cache,
    check_objective,
    check_view,
)
from stillroom.pipeline.validation import validation_source, validator
from stillroom.stages.across_ranks import rank, together
from stillroom.stages.evaluate.tasks import TASKS, best_score
from stillroom.stages.models.inference import device_of
from stillroom.stages.models.students.families import build_student
from stillroom.stages.pictures.curve_chart import Panel, curve_chart
from stillroom.stages.torch_state import use_seed
from stillroom.stages.train.job import UNCHANGING, TrainJob
from stillroom.stages.train.live_teachers import LiveTeachers
from stillroom.stages.train.loop import train
from stillroom.stages.train.metrics import read_metrics
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.open_dataset import is_labelled, open_dataset
from stillroom.stages.train.process_group import joined, launched
from stillroom.stages.train.teacher_reads import teacher_sets
from stillroom.stages.train.terms.term import Sizes
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.fingerprint import fingerprint
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.models.student import Student
    from stillroom.stages.models.students.families import StudentConfig
    from stillroom.stages.models.teacher import Teacher
    from stillroom.stages.sources.source import Source
    from stillroom.stages.train.check import Check
    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.stages.train.job import Progress, TrainResult
    from stillroom.stages.train.live_set import LiveSet
    from stillroom.stages.train.profile import Profile
    from stillroom.stages.train.settings import TrainConfig

LOG = logging.getLogger(__name__)
CURVES = "curves.png"

# Sections of the run file that a student does not depend on: its cache is known by fingerprints.
ELSEWHERE = ("sources", "teachers", "flows", "cache", "adapt", "evaluate")


def train_run(run: RunConfig, on_step: Callable[[Progress], None] | None = None) -> TrainResult:
    """Train the run's student from the run's cache; running it again resumes.

    Processes of one `torchrun`, or of Ray Train, train it together.

    Raises: as `prepare_job`, and as the loop.
        StoppedElsewhere: another of the processes has failed.
    """
    with joined(run.train.device if run.train is not None else "cpu"):
        job = together(lambda: prepare_job(run, on_step))
        result = train(job)
        if rank() == 0:
            _draw_curves(job.settings.path)
        return result


def check_workers(workers: int, address: str | None, *, measures: bool) -> None:
    """Refuse options of `stillroom train` that do not go together (ConfigError)."""
    if workers == 1 and address is not None:
        raise ConfigError(
            "--address is of a Ray cluster that several workers train on: --workers N"
        )
    if workers > 1 and measures:
        raise ConfigError("--check and --profile measure one process: leave --workers out")
    if workers > 1 and launched():
        raise ConfigError(
            "torchrun has started several processes already: leave --workers out, or start "
            "`stillroom train` by itself"
        )


def check_terms(run: RunConfig, steps: int = 3) -> Check:
    """Take a few steps and measure every term in them; nothing is written.

    Raises: as `prepare_job`.
    """
    from stillroom.stages.train.check import check

    return check(prepare_job(run), steps)


def profile_training(run: RunConfig) -> Profile:
    """Take a few steps and measure where their time goes; the trace is all that is written.

    Raises: as `prepare_job`.
    """
    from stillroom.stages.train.profile import profile

    return profile(prepare_job(run))


def prepare_job(run: RunConfig, on_step: Callable[[Progress], None] | None = None) -> TrainJob:
    """Bring together all that a run needs, and refuse what cannot be trained.

    Raises:
        ConfigError: the run lacks a section, or a term has nothing to read.
        CacheMismatch: the cache was built from something else.
        CacheIncomplete: frames that the run reads are not cached.
    """
    settings, student_config = _sections(run)
    check_view(settings.view, run.cache.canvas)
    learned = settings.task_weights == "uncertainty"
    objective = Objective(run.terms, settings.unlabelled_weight, uncertainty=learned)
    cache = Cache.open(run.cache.path)
    check_cache(run, settings, cache, objective)
    check_heads(student_config, objective)
    learns_classes = student_config.learns_classes()
    classes = student_classes(cache, run, settings) if learns_classes else ()
    kinds = {
        name: (is_labelled(cache, name, stream), stream.triplets is not None)
        for name, stream in settings.streams.items()
    }
    beside = {
        name: mix_needs(objective, name, settings.streams[name], labelled=labelled)
        for name, (labelled, _) in kinds.items()
    }
    reads = [objective.artifacts(labelled, clips=clips) for labelled, clips in kinds.values()]
    teachers, live = build_live(run, settings, frozenset().union(*reads, *beside.values()))
    use_seed(settings.seed)
    student = build_student(student_config, len(classes))
    streams, cached = {}, _cached_strides(cache, settings, objective, live)
    for name, (labelled, clips) in kinds.items():
        needs = objective.needs(labelled, student.strides, cached, clips=clips)
        needs |= beside[name]
        streams[name] = open_dataset(cache, name, settings, needs, student.stride, live)
    check_objective(run, objective, streams, classes)
    check_labels(objective, streams, classes)
    check_depth(student, streams)
    objective.prepare(_sizes(student, classes, streams, cached))
    scored = validation_source(run, student, classes)
    device = device_of(settings.device, "train")
    if rank() == 0:
        LOG.info("the student trains on %s", device)
    return TrainJob(
        student=student,
        objective=objective,
        streams=streams,
        settings=settings,
        config={**as_document(run), "classes": list(classes)},
        fingerprints=_fingerprints(settings, streams, scored),
        validate=None if scored is None else validator(run, scored, student),
        score=best_score(student.heads),
        on_step=on_step,
        device=device,
        live=_live(run, teachers, streams),
        may_differ=(*UNCHANGING, *ELSEWHERE),
    )


def _sections(run: RunConfig) -> tuple[TrainConfig, StudentConfig]:
    missing = [name for name in ("student", "terms", "train") if not getattr(run, name)]
    if run.train is None or run.student is None or missing:
        raise ConfigError(f"to train, the run file needs the section {', '.join(missing)} as well")
    return run.train, run.student


def _live(
    run: RunConfig, teachers: Mapping[str, Teacher], streams: Mapping[str, CacheDataset]
) -> LiveTeachers | None:
    """Return what runs the teachers in the step; None where the cache has everything."""
    if not any(dataset.live for dataset in streams.values()):
        return None
    return LiveTeachers(teachers, streams, run.cache.threshold, run.cache.batch)


def _cached_strides(
    cache: Cache, settings: TrainConfig, objective: Objective, live: Mapping[str, LiveSet]
) -> dict[str, int]:
    """Strides of what the run's teachers have in the cache, or say in the step, by "fpn/logits"."""
    teachers = {teacher for term in objective.terms for teacher in term.teachers}
    return {
        f"{teacher}/{artifact}": int(spec.attributes["stride"])
        for name, stream in settings.streams.items()
        for teacher in sorted(teachers)
        for one in teacher_sets(cache, stream.source or name, teacher, settings, live)
        for artifact, spec in one.arrays.items()
        if "stride" in spec.attributes
    }


def _sizes(
    student: Student,
    classes: tuple[str, ...],
    streams: Mapping[str, CacheDataset],
    cached: Mapping[str, int],
) -> Sizes:
    teachers = {
        f"{teacher_of(set_name)}/{artifact}": spec.shape[0]
        for dataset in streams.values()
        for set_name, one in dataset.teachers.items()
        for artifact, spec in one.arrays.items()
        if "channel" in spec.kind.axes
    }
    mine = student.num_classes, student.channels, student.strides
    return Sizes(*mine, teachers, cached, classes)


def _fingerprints(
    settings: TrainConfig, streams: Mapping[str, CacheDataset], scored: Source | None
) -> dict[str, str]:
    """Return the fingerprints of what a run depends on beside its config: fixed when it resumes.

    Args:
        scored: the validation source, which decides what best.pt is
    """
    found = {k: v for dataset in streams.values() for k, v in dataset.fingerprints.items()}
    if scored is not None and settings.validation is not None:
        found[f"validation/{settings.validation.source}"] = fingerprint(scored.identity())
    return found


def _draw_curves(folder: Path) -> None:
    """Draw the loss, its terms and the validation scores of a run over its steps."""
    lines = read_metrics(folder)
    losses = [line for line in lines if "terms" in line]
    gradients = [line for line in lines if "gradients" in line]
    scores = [line for line in lines if "scores" in line]
    if not losses:
        return

    def curve(lines: list[Any], *keys: str, missing: float = 0.0) -> Any:
        values = (reduce(lambda found, key: found.get(key, missing), keys, line) for line in lines)
        return [line["step"] for line in lines], list(values)

    terms = {name: curve(losses, "terms", name, missing=math.nan) for name in losses[0]["terms"]}
    panels = [
        Panel("loss", {"loss": curve(losses, "loss")}),
        Panel("terms, unweighted", terms, logarithmic=True),
    ]
    if len(gradients) > 1:
        norms = {name: curve(gradients, "gradients", name) for name in gradients[0]["gradients"]}
        panels.append(Panel("gradients of the terms, weighted: 2-norm", norms, logarithmic=True))
    for best in (row.best for row in TASKS.values()):
        if scores and best in scores[0]["scores"]:
            name = "mIoU" if best == "miou" else best
            panels.append(Panel(f"validation {name}", {name: curve(scores, "scores", best)}))
    curve_chart(folder / CURVES, panels, title=folder.name)
