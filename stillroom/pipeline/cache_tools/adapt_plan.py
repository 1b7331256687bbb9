"""What `cache adapt` has to do: whose features, which codes, and what of them is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.pipeline.build.sets import sets_of_run
from stillroom.pipeline.cache_tools.codes import code_set_name, readable_code, set_with
from stillroom.pipeline.identity import readable_identity
from stillroom.storage_specs.errors import CacheIncomplete, CacheMismatch, ConfigError
from stillroom.storage_specs.fingerprint import differences

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.stages.cache.adapt import AdaptConfig
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.store import Cache


@dataclass(frozen=True)
class CodePlan:
    """One teacher's code.

    set_name: of the extension sets that hold it, or are to
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
    """Settle what a teacher's code is made from. Reads the cache, writes nothing.

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
    set_name = there[0] if there else code_set_name(opened, teacher)
    return CodePlan(teacher, config, set_name, features, codes)


def _features(opened: OpenedRun, cache: Cache, source: str, teacher: str) -> ArtifactSet:
    """The set that holds the features, whole, and built by this run file's teacher."""
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
