"""Stage two as a whole: from a run file and its cache to a trained student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.pipeline.config import as_document
from stillroom.pipeline.curves import draw_curves
from stillroom.pipeline.targets import FRAMES, open_targets
from stillroom.stages.models.student import build_student
from stillroom.stages.sources.open import open_source
from stillroom.stages.torch_state import best_device, use_seed
from stillroom.stages.train.dataset import is_labelled, open_dataset
from stillroom.stages.train.job import UNCHANGING, TrainJob
from stillroom.stages.train.loop import train
from stillroom.stages.train.objective import Objective
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stillroom.pipeline.config import RunConfig
    from stillroom.stages.models.student import Student, StudentConfig
    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.stages.train.job import Progress, TrainResult
    from stillroom.stages.train.settings import TrainConfig

# Sections of the run file that a student does not depend on: its cache is known by fingerprints.
ELSEWHERE = ("sources", "teachers", "cache", "evaluate")


def train_run(run: RunConfig, on_step: Callable[[Progress], None] | None = None) -> TrainResult:
    """Train the run's student from the run's cache; running it again resumes.

    Raises:
        ConfigError: the run lacks a section, or a term has nothing to read.
        CacheMismatch: the cache was built from something else.
        CacheIncomplete: frames that the run reads are not cached.
    """
    settings, student_config = _sections(run)
    objective = Objective(run.terms, settings.unlabelled_weight)
    cache = Cache.open(run.cache.path)
    check_cache(run, cache, objective)
    classes = student_classes(cache, settings)
    use_seed(settings.seed)
    student = build_student(student_config, len(classes))
    streams = {
        name: open_dataset(
            cache, name, settings, objective.needs(is_labelled(cache, name, stream)), student.stride
        )
        for name, stream in settings.streams.items()
    }
    _check_objective(objective, streams, len(classes))
    result = train(
        TrainJob(
            student=student,
            objective=objective,
            streams=streams,
            settings=settings,
            config={**as_document(run), "classes": list(classes)},
            validate=_validator(run, classes),
            on_step=on_step,
            device=best_device(),
            may_differ=(*UNCHANGING, *ELSEWHERE),
        )
    )
    draw_curves(settings.path)
    return result


def _sections(run: RunConfig) -> tuple[TrainConfig, StudentConfig]:
    missing = [name for name in ("student", "terms", "train") if not getattr(run, name)]
    if run.train is None or run.student is None or missing:
        raise ConfigError(f"to train, the run file needs the section {', '.join(missing)} as well")
    return run.train, run.student


def check_cache(run: RunConfig, cache: Cache, objective: Objective) -> None:
    """Refuse a cache that was built from anything else than the run says.

    A source whose files are not on this machine is taken as the cache has it: that is what the
    frames in the cache are for.

    Raises:
        CacheMismatch: names each differing field.
        CacheIncomplete: a set that the run reads is not there.
        ConfigError: a stream's source is not among those that are cached.
    """
    settings, _ = _sections(run)
    targets = open_targets(run, must_exist=False)
    for name, stream in settings.streams.items():
        source = stream.source or name
        if source not in run.cached_sources():
            raise ConfigError(
                f"train.streams.{name}: source {source!r} is not among cache.sources "
                f"({', '.join(run.cached_sources())})"
            )
        needs = objective.needs(is_labelled(cache, name, stream))
        teachers = {key.partition("/")[0] for key in needs}
        for set_name in [FRAMES, *sorted(teachers)]:
            found = cache.artifact_set(source, set_name)
            if set_name == FRAMES or set_name in targets.teachers:
                found.require(targets.identity(source, set_name))


def student_classes(cache: Cache, settings: TrainConfig) -> tuple[str, ...]:
    """Names of the student's classes: those of the labelled streams.

    Raises:
        ConfigError: no stream is labelled, or two of them have other classes.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, stream in settings.streams.items():
        arrays = cache.artifact_set(stream.source or name, FRAMES).arrays
        if stream.labelled is not False and "labels" in arrays:
            found[name] = tuple(arrays["labels"].attributes["classes"])
    if not found:
        raise ConfigError("train.streams: no stream is labelled, so the student has no classes")
    if len(set(found.values())) > 1:
        listing = "\n".join(f"  {name}: {', '.join(classes)}" for name, classes in found.items())
        raise ConfigError(f"train.streams: labelled streams with different classes\n{listing}")
    return next(iter(found.values()))


def _check_objective(
    objective: Objective, streams: Mapping[str, CacheDataset], classes: int
) -> None:
    available: dict[str, set[str]] = {}
    teacher_classes: dict[str, int] = {}
    thresholds: dict[str, float] = {}
    for stream, dataset in streams.items():
        available[stream] = {"labels"} if dataset.labelled else set()
        for teacher, said in dataset.teachers.items():
            available[stream] |= {f"{teacher}/{artifact}" for artifact in said.arrays}
            if "logits" in said.arrays:
                teacher_classes[teacher] = said.arrays["logits"].shape[0]
            if "pseudo_label" in said.identity:
                thresholds[teacher] = said.identity["pseudo_label"]["threshold"]
    for term in objective.terms:
        if term.teacher is not None:  # pseudo labels alone do not tell the number of classes
            teacher_classes.setdefault(term.teacher, classes)
    objective.check(available, teacher_classes, classes, thresholds)


def _validator(
    run: RunConfig, classes: tuple[str, ...]
) -> Callable[[Student], Mapping[str, Any]] | None:
    """What scores the student while it trains, if the run wants that."""
    from stillroom.stages.evaluate.evaluation import evaluate_source
    from stillroom.stages.evaluate.predict import StudentPredictor

    if run.train is None or run.train.validation is None:
        return None
    source = open_source(run.sources[run.train.validation.source])
    if source.classes != classes:
        raise ConfigError(
            f"train.validation.source: its classes are {source.classes}, the student's {classes}"
        )

    def validate(student: Student) -> Mapping[str, Any]:
        result = evaluate_source(StudentPredictor(student), source, run.cache.canvas)
        return result.to_dict()

    return validate
