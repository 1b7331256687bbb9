"""Sets of codes: what they are called, what they must have been made from, where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.pipeline.identity import readable_identity
from stillroom.storage_specs.fingerprint import ANY
from stillroom.storage_specs.layout import extension_name

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.store import Cache

ADAPT = "adapt"  # in the identity of a set: what made its codes


def code_set_name(opened: OpenedRun, teacher: str) -> str:
    """The set that the run's code of a teacher belongs in, the same on every source."""
    config = opened.run.adapt[teacher]
    height, width = opened.run.cache.canvas
    about = {
        "teacher": opened.teachers[teacher].identity(),
        "canvas": {"height": height, "width": width},
        "code": config.code,
        ADAPT: config.identity(),
    }
    return extension_name(teacher, about)


def set_with(cache: Cache, source: str, teacher: str, artifact: str) -> ArtifactSet | None:
    """The set that holds an artifact of a teacher; None where none does."""
    for one in cache.teacher_sets(source, teacher):
        if artifact in one.arrays:
            return one
    return None


def readable_code(opened: OpenedRun, teacher: str, found: ArtifactSet) -> dict[str, Any]:
    """The identity that a reader of codes demands: source, canvas, teacher and how it was made.

    A run file without a section for them takes codes as they are, of its own teacher.
    """
    config = opened.run.adapt.get(teacher)
    made: Any = ANY
    if config is not None and config.code in found.arrays:
        unsaid = dict.fromkeys(("weights", "trained_on", "features"), ANY)
        made = {**config.identity(), **unsaid}
    wanted = readable_identity(opened, found.source, found.name, tuple(found.arrays))
    return {**wanted, ADAPT: made}
