"""What `stillroom train` checks before the first step."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from stillroom.pipeline.build.sets import sets_of_run
from stillroom.pipeline.cache_tools.codes import readable_code, set_with
from stillroom.pipeline.identity import TRANSCODED, readable_identity
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.stages.class_lists import agree
from stillroom.stages.train.open_dataset import is_labelled
from stillroom.stages.train.reads import TRIPLETS, how_to_cache, row_of
from stillroom.storage_specs.artifacts import (
    FRAMES,
    LOGITS,
    PIXEL_CONFIDENCE,
    PSEUDO_LABEL,
    artifact_of,
)
from stillroom.storage_specs.errors import CacheMismatch, ConfigError
from stillroom.storage_specs.fingerprint import identity_differences
from stillroom.storage_specs.layout import teacher_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.sources.open import SourceConfig
    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.stages.train.live_set import LiveSet
    from stillroom.stages.train.objective import Objective
    from stillroom.stages.train.settings import StreamConfig, TrainConfig
    from stillroom.stages.view import ViewConfig
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.codecs.codec import Codec
    from stillroom.storage_specs.store import Cache

LOG = logging.getLogger(__name__)


def check_cache(run: RunConfig, settings: TrainConfig, cache: Cache, objective: Objective) -> None:
    """Refuse a cache that was built from anything else than the run names.

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
        _check_names(run, name, stream)
        source = stream.source or name
        sets = read.setdefault(source, {FRAMES})
        if stream.triplets is not None:
            sets.add(stream.triplets)
        labelled = is_labelled(cache, name, stream)
        for need in objective.artifacts(labelled, clips=stream.triplets is not None):
            teacher, _, artifact = need.partition("/")
            if settings.teacher != "online":
                sets.add(teacher)
            if artifact_of(artifact).made_by == "autoencoder":
                codes.add((source, teacher, artifact))
    for source, sets in read.items():
        names = sorted(sets, key=lambda each: each != FRAMES)
        _check_source(opened, cache, source, names, live=settings.teacher is not None)
    for source, teacher, artifact in sorted(codes):
        found = set_with(cache, source, teacher, artifact)
        if found is not None and teacher in opened.teachers:  # what is not there is refused later
            found.require(readable_code(opened, teacher, found))


def _check_names(run: RunConfig, name: str, stream: StreamConfig) -> None:
    """Refuse a source and a flow model that the run does not cache."""
    source, model, flows = stream.source or name, stream.triplets, run.cached_flows()
    if source not in run.cached_sources():
        raise ConfigError(
            f"train.streams.{name}: source {source!r} is not among cache.sources "
            f"({', '.join(run.cached_sources())})"
        )
    if model is not None and model not in flows:
        raise ConfigError(
            f"train.streams.{name}: triplets = {model!r} is no model of motion whose flow this run "
            f"caches ({', '.join(flows) or 'none'}); it needs a section [flows.{model}] and one "
            "[cache.pairs], and `stillroom cache build RUN.toml`"
        )


def _check_source(
    opened: OpenedRun, cache: Cache, source: str, names: list[str], *, live: bool
) -> None:
    """Compare a source's sets with the run, and with one another where the run cannot know.

    Args:
        names: of the frames, teachers and flow models
        live: teachers run in the step where nothing of them is cached
    """
    sets = [
        one
        for name in names
        for one in _sets_of(opened, cache, source, name, live=live and name in opened.teachers)
    ]
    for one in sets:
        if TRANSCODED in one.identity:
            codecs = ", ".join(one.identity[TRANSCODED]["codecs"])
            LOG.warning("%s/%s was encoded twice, with loss: %s", source, one.name, codecs)
    for one in sets[1:]:
        _demand_one_source(cache, sets[0], one)
    if source in opened.absent:
        LOG.warning(_unchecked(source, opened.run.sources[source], cache))


def _sets_of(
    opened: OpenedRun, cache: Cache, source: str, name: str, *, live: bool
) -> list[ArtifactSet]:
    """Return the sets of one name, each checked against the run if the run knows the name."""
    if name not in (FRAMES, *opened.teachers, *opened.run.flows):
        return [cache.artifact_set(source, name)]
    found = []
    for one in sets_of_run(opened, cache, [(source, name)]):
        # An extension set may be missing.
        if one.stored is not None or (one.name == name and not live):
            stored = one.stored or cache.artifact_set(source, name)
            stored.require(readable_identity(opened, source, one.name, one.artifacts))
            found.append(stored)
    return found


def _unchecked(source: str, config: SourceConfig, cache: Cache) -> str:
    """Return the warning that a source is absent, which may be a mistake in the run file."""
    folders = [str(folder) for folder in config.folders()]
    key = f"sources.{source}" + (".root" if getattr(config, "root", None) is not None else "")
    return (
        f"source {source}: {' and '.join(folders)} {'do' if len(folders) > 1 else 'does'} not "
        f"exist; its frames are taken from {cache.path} unchecked (correct {key} if that is a "
        "typing mistake)"
    )


def _demand_one_source(cache: Cache, frames: ArtifactSet, other: ArtifactSet) -> None:
    found = identity_differences(
        *({"source": one.identity.get("source")} for one in (frames, other))
    )
    if found:
        listing = "\n".join(
            f"  {one}".replace("   cache ", f"   {frames.name} ").replace(
                "   run ", f"   {other.name} "
            )
            for one in found
        )
        raise CacheMismatch(
            f"{cache.path}: the sets {frames.name} and {other.name} of {frames.source} were built "
            f"from different frames\n{listing}\n  give cache.path another folder and run "
            "`stillroom cache build RUN.toml`"
        )


def check_view(view: ViewConfig, canvas: tuple[int, int]) -> None:
    """Warn of a crop that the canvas does not fill, unless frames are enlarged until it does."""
    enlarged = [side * max(1.0, view.scale[0]) for side in canvas]
    if view.crop is not None and (view.crop[0] > enlarged[0] or view.crop[1] > enlarged[1]):
        LOG.warning(
            "train.view.crop %dx%d is larger than cache.canvas %dx%d (height x width): what the "
            "student sees is then partly padding",
            *view.crop,
            *canvas,
        )


def check_objective(
    run: RunConfig,
    objective: Objective,
    streams: Mapping[str, CacheDataset],
    classes: tuple[str, ...],
) -> None:
    """Refuse terms that the opened streams cannot feed.

    Args:
        classes: the student's

    Raises:
        ConfigError: with every fault found.
    """
    available: dict[str, set[str]] = {}
    teacher_classes: dict[str, int] = {}
    thresholds: dict[str, float] = {}
    softmax_only: set[str] = set()
    highest: dict[str, float] = {}
    for stream, dataset in streams.items():
        available[stream] = set(dataset.targets)
        available[stream] |= {TRIPLETS} if dataset.clips else set()
        available[stream] |= _said_stand_ins(stream, dataset)
        for set_name, stored in dataset.teachers.items():
            teacher = teacher_of(set_name)
            read = (need for need in dataset.needs if need.startswith(f"{teacher}/"))
            if any(row_of(need).has_classes for need in read):
                _demand_same_classes(run, teacher, stored, classes)
            available[stream] |= {f"{teacher}/{artifact}" for artifact in stored.arrays}
            if LOGITS in stored.arrays:
                teacher_classes[teacher] = stored.arrays[LOGITS].shape[0]
                if not stored.arrays[LOGITS].codec.whole_logits:
                    softmax_only.add(teacher)
            if PSEUDO_LABEL in stored.identity:
                thresholds[teacher] = stored.identity[PSEUDO_LABEL]["threshold"]
            if PIXEL_CONFIDENCE in stored.arrays:
                highest[teacher] = _highest_below_one(stored.arrays[PIXEL_CONFIDENCE].codec)
    for term in objective.terms:
        for teacher in term.teachers:  # without logits, as many as the student's
            teacher_classes.setdefault(teacher, len(classes))
    objective.check(available, teacher_classes, len(classes), thresholds, softmax_only, highest)


def _highest_below_one(codec: Codec) -> float:
    """Return what is stored of a probability that is all but 1."""
    stored = codec.encode(np.nextafter(np.ones(1, np.float32), np.float32(0)))
    return float(codec.decode(stored.values, stored.side)[0])


def _said_stand_ins(stream: str, dataset: CacheDataset) -> set[str]:
    """Return what a stream needs and has approximately, and warn of it."""
    for read, other in dataset.stand_ins.items():
        teacher, _, artifact = read.partition("/")
        LOG.warning(
            "stream %s: %s is not cached; %s, upsampled, stands in for it, so that a raised "
            "threshold keeps other pixels than a build at that threshold does, near the edges of "
            "things above all; %s, once",
            stream,
            read,
            other.partition("@")[0],
            how_to_cache(artifact, teacher),
        )
    return set(dataset.stand_ins)


def _demand_same_classes(
    run: RunConfig, teacher: str, stored: ArtifactSet | LiveSet, classes: tuple[str, ...]
) -> None:
    """Refuse named classes that are not the student's, in the same order."""
    known = run.teacher(teacher).mapped().class_names() if teacher in run.teachers else None
    for spec in stored.arrays.values():
        names = known or spec.attributes.get("classes")
        if names is not None and not agree(names, classes):
            raise ConfigError(
                f"teacher {teacher} and the student have different classes, or in another order\n"
                f"  teacher  {', '.join(names)}\n"
                f"  student  {', '.join(classes)}\n"
                f"  name teachers.{teacher}.classes as the network was trained with, and bring "
                f"them to the student's by teachers.{teacher}.mapping"
            )
