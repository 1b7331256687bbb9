"""The classes of a run's student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.stages.class_lists import agree, numbered
from stillroom.storage_specs.artifacts import FRAMES, LABELS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.train.settings import TrainConfig
    from stillroom.storage_specs.store import Cache


def student_classes(cache: Cache, run: RunConfig, settings: TrainConfig) -> tuple[str, ...]:
    """Return the names of the student's classes: the labelled streams', else its teachers'.

    Raises:
        ConfigError: no stream is labelled and no teacher has classes, or two of them have others.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, stream in settings.streams.items():
        arrays = cache.artifact_set(stream.source or name, FRAMES).arrays
        if stream.labelled is not False and LABELS in arrays:
            stored = tuple(arrays[LABELS].attributes["classes"])
            found[f"stream {name}"] = run.classes_of(stream.source or name) or stored
    found = found or _classes_of_teachers(cache, run, settings)
    if not found:
        raise ConfigError(
            "train.streams: no stream is labelled, and no term has a teacher whose logits or "
            "pseudo labels are cached, so the student has no classes; give one of them"
        )
    first = next(
        (one for one in found.values() if one != numbered(len(one))), next(iter(found.values()))
    )
    if not all(agree(first, one) for one in found.values()):
        listing = "\n".join(f"  {name}: {', '.join(classes)}" for name, classes in found.items())
        raise ConfigError(f"train.streams: a student cannot have different classes\n{listing}")
    return first


def _classes_of_teachers(
    cache: Cache, run: RunConfig, settings: TrainConfig
) -> dict[str, tuple[str, ...]]:
    """Return the classes of the terms' teachers, where they are cached; numbers of nameless ones.

    A cache may have older names; those of the run count.
    """
    teachers = sorted({teacher for term in run.terms for teacher in term.teachers})
    sources = {stream.source or name for name, stream in settings.streams.items()}
    return {
        f"teacher {teacher}": numbered(seen.class_names() or seen.num_classes())
        for teacher in teachers
        for seen in (run.teacher(teacher).mapped(),)
        if (settings.teacher and seen.classes is not None)
        or any(
            spec.kind.has_classes
            for source in sorted(sources)
            for one in cache.teacher_sets(source, teacher)
            for spec in one.arrays.values()
        )
    }
