"""Stage two as a whole: from a run file and its cache to a trained student."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.config import as_document
from stillroom.pipeline.curves import draw_curves
from stillroom.pipeline.targets import FRAMES, TRANSCODED, open_targets
from stillroom.stages.models.student import build_student
from stillroom.stages.sources.open import open_source
from stillroom.stages.torch_state import best_device, use_seed
from stillroom.stages.train.dataset import is_labelled, open_dataset
from stillroom.stages.train.job import UNCHANGING, TrainJob
from stillroom.stages.train.loop import train
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.terms.term import Sizes
from stillroom.storage_specs.errors import CacheMismatch, ConfigError
from stillroom.storage_specs.fingerprint import differences, fingerprint
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stillroom.pipeline.config import RunConfig
    from stillroom.pipeline.targets import Targets
    from stillroom.stages.models.student import Student, StudentConfig
    from stillroom.stages.sources.source import Source
    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.stages.train.job import Progress, TrainResult
    from stillroom.stages.train.settings import StreamConfig, TrainConfig
    from stillroom.storage_specs.store import ArtifactSet

LOG = logging.getLogger(__name__)

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
    streams = {}
    for name, stream in settings.streams.items():
        needs = objective.needs(is_labelled(cache, name, stream), student.strides)
        streams[name] = open_dataset(cache, name, settings, needs, student.stride)
    _check_objective(objective, streams, classes)
    objective.prepare(_sizes(student, streams))
    scored = _validation_source(run, classes)
    result = train(
        TrainJob(
            student=student,
            objective=objective,
            streams=streams,
            settings=settings,
            config={**as_document(run), "classes": list(classes)},
            fingerprints=_fingerprints(settings, streams, scored),
            validate=None if scored is None else _validator(run, scored),
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
    read: dict[str, set[str]] = {}
    for name, stream in settings.streams.items():
        needs = objective.artifacts(is_labelled(cache, name, _checked(run, name, stream)))
        teachers = {key.partition("/")[0] for key in needs}
        read.setdefault(stream.source or name, {FRAMES}).update(teachers)
    for source, set_names in read.items():
        _check_source(targets, cache, source, sorted(set_names, key=lambda each: each != FRAMES))


def _checked(run: RunConfig, name: str, stream: StreamConfig) -> StreamConfig:
    source = stream.source or name
    if source not in run.cached_sources():
        raise ConfigError(
            f"train.streams.{name}: source {source!r} is not among cache.sources "
            f"({', '.join(run.cached_sources())})"
        )
    return stream


def _check_source(targets: Targets, cache: Cache, source: str, set_names: list[str]) -> None:
    """Compare a source's sets with the run, and with one another where the run cannot know."""
    found = []
    for one, artifacts in _sets_read(targets, cache, source, set_names):
        found.append(one)
        if artifacts is not None:
            one.require(targets.readable(source, one.name, artifacts))
        if TRANSCODED in one.identity:
            codecs = ", ".join(one.identity[TRANSCODED]["codecs"])
            LOG.warning("%s/%s was encoded twice, with loss: %s", source, one.name, codecs)
    for one in found[1:]:
        _demand_one_source(cache, found[0], one)
    if source in targets.absent:
        LOG.warning(
            "source %s is not on this machine: that its frames are those of %s is taken on trust",
            source,
            cache.path,
        )


def _sets_read(
    targets: Targets, cache: Cache, source: str, names: list[str]
) -> list[tuple[ArtifactSet, tuple[str, ...] | None]]:
    """The sets of frames and teachers, and what the run says they hold; None of a stranger's."""
    found: list[tuple[ArtifactSet, tuple[str, ...] | None]] = []
    there = cache.sets()
    for name in names:
        if name != FRAMES and name not in targets.teachers:
            found.append((cache.artifact_set(source, name), None))
            continue
        for set_name, artifacts in targets.holdings(cache, source, name).items():
            # An extension set that is not there is missed by whoever needs what it would hold.
            if set_name == name or (source, set_name) in there:
                found.append((cache.artifact_set(source, set_name), artifacts))
    return found


def _demand_one_source(cache: Cache, frames: ArtifactSet, other: ArtifactSet) -> None:
    found = differences(frames.identity.get("source"), other.identity.get("source"))
    if found:
        listing = "\n".join(
            f"  source.{one}".replace("   cache ", f"   {frames.name} ").replace(
                "   run ", f"   {other.name} "
            )
            for one in found
        )
        raise CacheMismatch(
            f"{cache.path}: the sets {frames.name} and {other.name} of {frames.source} were built "
            f"from different frames\n{listing}\n  give cache.path another folder and run "
            "`stillroom cache build`"
        )


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


def _sizes(student: Student, streams: Mapping[str, CacheDataset]) -> Sizes:
    teachers = {
        f"{teacher_of(set_name)}/{artifact}": spec.shape[0]
        for dataset in streams.values()
        for set_name, one in dataset.teachers.items()
        for artifact, spec in one.arrays.items()
        if "channel" in spec.kind.axes
    }
    return Sizes(student.num_classes, student.channels, student.strides, teachers)


def _check_objective(
    objective: Objective, streams: Mapping[str, CacheDataset], classes: tuple[str, ...]
) -> None:
    available: dict[str, set[str]] = {}
    teacher_classes: dict[str, int] = {}
    thresholds: dict[str, float] = {}
    softmax_only: set[str] = set()
    for stream, dataset in streams.items():
        available[stream] = {"labels"} if dataset.labelled else set()
        for set_name, said in dataset.teachers.items():
            teacher = teacher_of(set_name)
            if not dataset.needs.isdisjoint({f"{teacher}/logits", f"{teacher}/pseudo_label"}):
                _demand_same_classes(teacher, said, classes)
            available[stream] |= {f"{teacher}/{artifact}" for artifact in said.arrays}
            if "logits" in said.arrays:
                teacher_classes[teacher] = said.arrays["logits"].shape[0]
                if not said.arrays["logits"].codec.whole_logits:
                    softmax_only.add(teacher)
            if "pseudo_label" in said.identity:
                thresholds[teacher] = said.identity["pseudo_label"]["threshold"]
    for term in objective.terms:
        for teacher in term.teachers:  # without logits the number of classes is not told
            teacher_classes.setdefault(teacher, len(classes))
    objective.check(available, teacher_classes, len(classes), thresholds, softmax_only)


def _demand_same_classes(teacher: str, said: ArtifactSet, classes: tuple[str, ...]) -> None:
    """Where a teacher's classes have names, they are the student's, in the same order."""
    for artifact in ("logits", "pseudo_label"):
        names = said.arrays[artifact].attributes.get("classes") if artifact in said.arrays else None
        if names is not None and tuple(names) != classes:
            raise ConfigError(
                f"teacher {teacher} and the student have different classes, or in another order\n"
                f"  teacher  {', '.join(names)}\n"
                f"  student  {', '.join(classes)}\n"
                f"  name teachers.{teacher}.classes as the network was trained with; a student "
                "learns from teachers of its own classes"
            )


def _validation_source(run: RunConfig, classes: tuple[str, ...]) -> Source | None:
    if run.train is None or run.train.validation is None:
        return None
    source = open_source(run.sources[run.train.validation.source])
    if source.classes != classes:
        raise ConfigError(
            f"train.validation.source: its classes are {source.classes}, the student's {classes}"
        )
    return source


def _fingerprints(
    settings: TrainConfig, streams: Mapping[str, CacheDataset], scored: Source | None
) -> dict[str, str]:
    """Of all that a run depends on and its config does not say: a resumed run must find the same.

    scored: the validation source, which decides what best.pt is
    """
    found = {k: v for dataset in streams.values() for k, v in dataset.fingerprints.items()}
    if scored is not None and settings.validation is not None:
        found[f"validation/{settings.validation.source}"] = fingerprint(scored.identity())
    return found


def _validator(run: RunConfig, source: Source) -> Callable[[Student], Mapping[str, Any]]:
    """What scores the student while it trains."""
    from stillroom.stages.evaluate.evaluation import evaluate_source
    from stillroom.stages.evaluate.predict import StudentPredictor

    def validate(student: Student) -> Mapping[str, Any]:
        result = evaluate_source(StudentPredictor(student), source, run.cache.canvas)
        return result.to_dict()

    return validate
