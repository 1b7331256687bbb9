"""The codes of a teacher's features: in which sets they are, and what these must be made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build.sets import sets_of_run
from stillroom.pipeline.identity import readable_identity
from stillroom.storage_specs.errors import CacheIncomplete, CacheMismatch, ConfigError
from stillroom.storage_specs.fingerprint import ANY, differences
from stillroom.storage_specs.layout import extension_name

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.stages.cache.adapt import AdaptConfig
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.store import Cache

ADAPT = "adapt"  # in the identity of a set: what made its codes


def set_with(cache: Cache, source: str, teacher: str, artifact: str) -> ArtifactSet | None:
    """Return the set that holds an artifact of a teacher; None where none does."""
    for one in cache.teacher_sets(source, teacher):
        if artifact in one.arrays:
            return one
    return None


def readable_code(opened: OpenedRun, teacher: str, found: ArtifactSet) -> dict[str, Any]:
    """Return the identity that a reader of codes demands: source, canvas, teacher, how it was made.

    A run file without a section for them takes codes as they are, of its own teacher.
    """
    config = opened.run.adapt.get(teacher)
    made: Any = ANY
    if config is not None and config.code in found.arrays:
        made = {**config.identity(), "weights": ANY, "trained_on": ANY, "features": ANY}
    wanted = readable_identity(opened, found.source, found.name, tuple(found.arrays))
    return {**wanted, ADAPT: made}


@dataclass(frozen=True)
class CodePlan:
    """The code of one teacher.

    Attributes:
        set_name: of its extension sets, one a source
        features, codes: by source, the set that is read, and the set of codes where there is one
    """

    teacher: str
    config: AdaptConfig
    set_name: str
    features: dict[str, ArtifactSet]
    codes: dict[str, ArtifactSet | None]

    def is_done(self) -> bool:
        """Whether every shard of codes is committed."""
        return all(one and len(one.committed()) == one.shards for one in self.codes.values())

    def begun(self) -> list[ArtifactSet]:
        """Sets of codes in which something is committed."""
        return [one for one in self.codes.values() if one is not None and one.committed()]


def plan_codes(opened: OpenedRun, cache: Cache, teacher: str) -> CodePlan:
    """Find what a teacher's code is made from. Reads the cache, writes nothing.

    Raises:
        ConfigError: the run does not list the features.
        CacheIncomplete: they are not cached, or not all of them.
        CacheMismatch: they, or the codes that are there, were made from something else.
    """
    config = opened.run.adapt[teacher]
    if config.features not in opened.run.cache.artifacts:
        raise ConfigError(
            f"[adapt.{teacher}] reads {config.features!r}, and cache.artifacts does not list it: "
            "add it there and run `stillroom cache extend`"
        )
    features, codes = {}, {}
    for source in opened.run.cached_sources():
        features[source] = _features(opened, cache, source, teacher)
        codes[source] = found = set_with(cache, source, teacher, config.code)
        if found is not None:
            _demand_same_code(opened, teacher, found)
    # What is there keeps its name, whatever "auto" in a run file stands for on this machine.
    there = [one.name for one in codes.values() if one is not None]
    set_name = there[0] if there else _set_name(opened, teacher)
    return CodePlan(teacher, config, set_name, features, codes)


def _features(opened: OpenedRun, cache: Cache, source: str, teacher: str) -> ArtifactSet:
    """Return the set that holds the features, complete, and built by this run file's teacher."""
    artifact = opened.run.adapt[teacher].features
    sets = sets_of_run(opened, cache, [(source, teacher)])
    one = next(one for one in sets if artifact in one.artifacts)
    found = one.stored
    if found is None:
        raise CacheIncomplete(
            f"{cache.path}: {artifact} of {teacher} is not cached on {source}; run `stillroom "
            "cache extend` with this run file first"
        )
    found.require(readable_identity(opened, source, one.name, one.artifacts))
    committed = len(found.committed())
    if committed < found.shards:
        raise CacheIncomplete(
            f"{cache.path}: {artifact} of {teacher} on {source}: {committed} of {found.shards} "
            "shards are committed; run `stillroom cache extend` with this run file to add the rest"
        )
    return found


def _demand_same_code(opened: OpenedRun, teacher: str, found: ArtifactSet) -> None:
    wrong = differences(found.identity, readable_code(opened, teacher, found))
    if wrong:
        config = opened.run.adapt[teacher]
        listing = "\n".join(f"  {one}" for one in wrong)
        raise CacheMismatch(
            f"{found.place}: {config.code} of {teacher} on {found.source} is there, and was "
            f"made otherwise\n{listing}\n  make [adapt.{teacher}] agree, or give it another name, "
            f'as in name = "{config.layer}-2", and both stand side by side'
        )


def _set_name(opened: OpenedRun, teacher: str) -> str:
    """Return the name of the sets for the run's code of a teacher, the same on every source."""
    config = opened.run.adapt[teacher]
    height, width = opened.run.cache.canvas
    about = {
        "teacher": opened.teachers[teacher].identity(),
        "canvas": {"height": height, "width": width},
        "code": config.code,
        ADAPT: config.identity(),
    }
    return extension_name(teacher, about)
