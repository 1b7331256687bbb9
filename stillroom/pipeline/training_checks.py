"""What a run demands of its cache before the first step."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from stillroom.pipeline.build.sets import sets_of_run
from stillroom.pipeline.cache_tools.codes import readable_code, set_with
from stillroom.pipeline.identity import TRANSCODED, readable_identity
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.stages.train.dataset import is_labelled
from stillroom.stages.train.reads import TRIPLETS, row_of
from stillroom.storage_specs.artifacts import FRAMES, LABELS, LOGITS, PSEUDO_LABEL, artifact_of
from stillroom.storage_specs.errors import CacheMismatch, ConfigError
from stillroom.storage_specs.fingerprint import differences
from stillroom.storage_specs.layout import teacher_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.sources.open import SourceConfig
    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.stages.train.objective import Objective
    from stillroom.stages.train.settings import StreamConfig, TrainConfig
    from stillroom.stages.view import ViewConfig
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.store import Cache

LOG = logging.getLogger(__name__)


def check_cache(run: RunConfig, settings: TrainConfig, cache: Cache, objective: Objective) -> None:
    """Refuse a cache that was built from anything else than the run says.

    A source whose files are not on this machine is taken as the cache has it: that is what the
    frames in the cache are for.

    Raises:
        CacheMismatch: names each differing field.
        CacheIncomplete: a set that the run reads is not there.
        ConfigError: a stream's source is not among those that are cached.
    """
    opened = open_run(run, must_exist=False)
    read: dict[str, set[str]] = {}
    codes: set[tuple[str, str, str]] = set()  # source, teacher, artifact
    for name, stream in settings.streams.items():
        labelled = is_labelled(cache, name, _checked(run, name, stream))
        needs = objective.artifacts(labelled, clips=stream.triplets is not None)
        said = {(key.partition("/")[0], key.partition("/")[2]) for key in needs}
        source = stream.source or name
        read.setdefault(source, {FRAMES}).update(teacher for teacher, _ in said)
        if stream.triplets is not None:
            read[source].add(_checked_flow(run, name, stream.triplets))
        codes |= {(source, *one) for one in said if artifact_of(one[1]).made_by == "autoencoder"}
    for source, set_names in read.items():
        _check_source(opened, cache, source, sorted(set_names, key=lambda each: each != FRAMES))

    for source, teacher, artifact in sorted(codes):
        found = set_with(cache, source, teacher, artifact)
        if found is not None and teacher in opened.teachers:  # what lacks is missed later
            found.require(readable_code(opened, teacher, found))


def _checked(run: RunConfig, name: str, stream: StreamConfig) -> StreamConfig:
    source = stream.source or name
    if source not in run.cached_sources():
        raise ConfigError(
            f"train.streams.{name}: source {source!r} is not among cache.sources "
            f"({', '.join(run.cached_sources())})"
        )
    return stream


def _checked_flow(run: RunConfig, name: str, model: str) -> str:
    known = run.cached_flows()
    if model not in known:
        raise ConfigError(
            f"train.streams.{name}: triplets = {model!r} is no model of motion whose flow this run "
            f"caches ({', '.join(known) or 'none'}); it needs a section [flows.{model}] and one "
            "[cache.pairs], and `stillroom cache build RUN.toml`"
        )
    return model


def _check_source(opened: OpenedRun, cache: Cache, source: str, set_names: list[str]) -> None:
    """Compare a source's sets with the run, and with one another where the run cannot know."""
    found = []
    for one, artifacts in _sets_read(opened, cache, source, set_names):
        found.append(one)
        if artifacts is not None:
            one.require(readable_identity(opened, source, one.name, artifacts))
        if TRANSCODED in one.identity:
            codecs = ", ".join(one.identity[TRANSCODED]["codecs"])
            LOG.warning("%s/%s was encoded twice, with loss: %s", source, one.name, codecs)
    for one in found[1:]:
        _demand_one_source(cache, found[0], one)
    if source in opened.absent:
        LOG.warning(_unchecked(source, opened.run.sources[source], cache))


def _unchecked(source: str, config: SourceConfig, cache: Cache) -> str:
    """That a source is absent: on purpose, or since the run file misspells where it is."""
    folders = [str(folder) for folder in config.folders()]
    key = f"sources.{source}" + (".root" if getattr(config, "root", None) is not None else "")
    return (
        f"source {source}: {' and '.join(folders)} {'do' if len(folders) > 1 else 'does'} not "
        f"exist; its frames are taken from {cache.path} unchecked (correct {key} if that is a "
        "typing mistake)"
    )


def _sets_read(
    opened: OpenedRun, cache: Cache, source: str, names: list[str]
) -> list[tuple[ArtifactSet, tuple[str, ...] | None]]:
    """The sets of frames and teachers, and what the run says they hold; None of a stranger's."""
    found: list[tuple[ArtifactSet, tuple[str, ...] | None]] = []
    for name in names:
        if name not in (FRAMES, *opened.teachers, *opened.run.flows):
            found.append((cache.artifact_set(source, name), None))
            continue
        for one in sets_of_run(opened, cache, [(source, name)]):
            # An extension set that is not there is missed by whoever needs what it would hold.
            if one.stored is not None:
                found.append((one.stored, one.artifacts))
            elif one.name == name:
                found.append((cache.artifact_set(source, name), one.artifacts))
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
            "`stillroom cache build RUN.toml`"
        )


def student_classes(cache: Cache, run: RunConfig, settings: TrainConfig) -> tuple[str, ...]:
    """Names of the student's classes: those of the labelled streams; without any, its teachers'.

    Raises:
        ConfigError: no stream is labelled and no teacher speaks of classes, or two of them speak
            of other ones.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, stream in settings.streams.items():
        arrays = cache.artifact_set(stream.source or name, FRAMES).arrays
        if stream.labelled is not False and LABELS in arrays:
            found[f"stream {name}"] = tuple(arrays[LABELS].attributes["classes"])
    found = found or _classes_of_teachers(cache, run, settings)
    if not found:
        raise ConfigError(
            "train.streams: no stream is labelled, and no term has a teacher whose logits or "
            "pseudo labels are cached, so the student has no classes; give one of them"
        )
    if len(set(found.values())) > 1:
        listing = "\n".join(f"  {name}: {', '.join(classes)}" for name, classes in found.items())
        raise ConfigError(f"train.streams: a student cannot have different classes\n{listing}")
    return next(iter(found.values()))


def _classes_of_teachers(
    cache: Cache, run: RunConfig, settings: TrainConfig
) -> dict[str, tuple[str, ...]]:
    """Names of the classes that the terms' teachers tell apart, where they are cached."""
    teachers = sorted({teacher for term in run.terms for teacher in term.teachers})
    sources = {stream.source or name for name, stream in settings.streams.items()}
    return {
        f"teacher {teacher}": tuple(spec.attributes["classes"])
        for source in sorted(sources)
        for teacher in teachers
        for one in cache.teacher_sets(source, teacher)
        for spec in one.arrays.values()
        if "classes" in spec.attributes
    }


def check_view(view: ViewConfig, canvas: tuple[int, int]) -> None:
    """Tell of a crop that the canvas does not fill, unless frames are enlarged until it does."""
    enlarged = [side * max(1.0, view.scale[0]) for side in canvas]
    if view.crop is not None and (view.crop[0] > enlarged[0] or view.crop[1] > enlarged[1]):
        LOG.warning(
            "train.view.crop %dx%d is larger than cache.canvas %dx%d (height x width): what the "
            "student sees is then partly padding",
            *view.crop,
            *canvas,
        )


def check_objective(
    objective: Objective, streams: Mapping[str, CacheDataset], classes: tuple[str, ...]
) -> None:
    """Refuse terms that the opened streams cannot feed.

    Raises:
        ConfigError: with every fault found.
    """
    available: dict[str, set[str]] = {}
    teacher_classes: dict[str, int] = {}
    thresholds: dict[str, float] = {}
    softmax_only: set[str] = set()
    for stream, dataset in streams.items():
        available[stream] = {LABELS} if dataset.labelled else set()
        available[stream] |= {TRIPLETS} if dataset.clips else set()
        for set_name, said in dataset.teachers.items():
            teacher = teacher_of(set_name)
            read = (need for need in dataset.needs if need.startswith(f"{teacher}/"))
            if any(row_of(need).has_classes for need in read):
                _demand_same_classes(teacher, said, classes)
            available[stream] |= {f"{teacher}/{artifact}" for artifact in said.arrays}
            if LOGITS in said.arrays:
                teacher_classes[teacher] = said.arrays[LOGITS].shape[0]
                if not said.arrays[LOGITS].codec.whole_logits:
                    softmax_only.add(teacher)
            if PSEUDO_LABEL in said.identity:
                thresholds[teacher] = said.identity[PSEUDO_LABEL]["threshold"]
    for term in objective.terms:
        for teacher in term.teachers:  # without logits the number of classes is not told
            teacher_classes.setdefault(teacher, len(classes))
    objective.check(available, teacher_classes, len(classes), thresholds, softmax_only)


def _demand_same_classes(teacher: str, said: ArtifactSet, classes: tuple[str, ...]) -> None:
    """Where a teacher's classes have names, they are the student's, in the same order."""
    for spec in said.arrays.values():
        names = spec.attributes.get("classes")
        if names is not None and tuple(names) != classes:
            raise ConfigError(
                f"teacher {teacher} and the student have different classes, or in another order\n"
                f"  teacher  {', '.join(names)}\n"
                f"  student  {', '.join(classes)}\n"
                f"  name teachers.{teacher}.classes as the network was trained with; a student "
                "learns from teachers of its own classes"
            )
