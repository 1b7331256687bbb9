"""Which artifact sets a run has in its cache, or is to have there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.pipeline.identity import set_identity
from stillroom.storage_specs.artifacts import FRAMES
from stillroom.storage_specs.layout import extension_name, teacher_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.store import Cache


@dataclass(frozen=True)
class RunSet:
    """An artifact set of a run.

    artifacts: the run's that it holds or is to hold
    stored: the set in the cache; None where there is none yet
    """

    source: str
    name: str
    artifacts: tuple[str, ...]
    stored: ArtifactSet | None = None


def sets_of_run(
    opened: OpenedRun, cache: Cache | None, names: Iterable[tuple[str, str]]
) -> list[RunSet]:
    """Find the sets for the artifacts of each (source, teacher); reads the cache, writes nothing.

    Of a teacher first its own set, then its extension sets that are there, then, for artifacts
    that none of these has, the extension set to be.

    names: of `OpenedRun.names`; the frames and flow models have one set each
    """
    known = () if cache is None else cache.sets()
    found: list[RunSet] = []
    for source, name in names:
        stored = [
            cache.artifact_set(source, set_name)
            for of, set_name in known
            if cache is not None and of == source and teacher_of(set_name) == name
        ]
        found += _sets_of(opened, source, name, stored)
    return found


def _sets_of(
    opened: OpenedRun, source: str, name: str, stored: list[ArtifactSet]
) -> Iterable[RunSet]:
    wanted = opened.artifacts(source, name)
    if name == FRAMES:
        return [RunSet(source, name, wanted, next(iter(stored), None))]
    found = []
    for one in stored:
        held = tuple(artifact for artifact in wanted if artifact in one.arrays)
        if held or one.name == name:
            found.append(RunSet(source, one.name, held, one))
            wanted = tuple(artifact for artifact in wanted if artifact not in held)
    if all(one.name != name for one in found):  # withdrawn by a repair, or never there
        return [*([RunSet(source, name, wanted)] if wanted else []), *found]
    if wanted:
        # As the run file says it, "auto" included: the same name in every worker.
        identity = set_identity(opened, source, name, wanted)
        found.append(RunSet(source, extension_name(name, identity), wanted))
    return found
