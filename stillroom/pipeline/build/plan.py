"""What a build has to do: the shards that are wanted and not committed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stillroom.stages.cache.artifacts_of_teacher import demand_labels_fit
from stillroom.stages.cache.cache_shard import ShardWork
from stillroom.storage_specs.artifact_set import mismatch
from stillroom.storage_specs.errors import CacheIncomplete, CacheMismatch
from stillroom.storage_specs.fingerprint import differences
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.pipeline.targets import Targets
    from stillroom.storage_specs.artifact_set import ArtifactSet


@dataclass(frozen=True)
class SetPlan:
    """One artifact set: how much of it there is to be, and which shards are missing.

    frames: its rows: of a set of motion they are pairs of frames
    artifacts: that it holds or is to hold
    """

    source: str
    set_name: str
    frames: int
    shard_frames: int
    missing: tuple[int, ...]
    artifacts: tuple[str, ...] = ()

    @property
    def shards(self) -> int:
        """Shards of the whole set."""
        return -(-self.frames // self.shard_frames)

    @property
    def missing_frames(self) -> int:
        """Frames in the missing shards."""
        return sum(
            min(self.shard_frames, self.frames - shard * self.shard_frames)
            for shard in self.missing
        )

    def works(self) -> list[ShardWork]:
        """The missing shards, in order."""
        return [ShardWork(self.source, self.set_name, shard) for shard in self.missing]


def plan_build(targets: Targets, *, extend: bool = False) -> list[SetPlan]:
    """Wanted shards minus committed shards, set by set. Reads the cache, writes nothing.

    What every set is made from is settled first: a file that is missing is found before anything
    is cached.

    extend: put artifacts that a teacher's set lacks into an extension set beside it

    Raises:
        CacheMismatch: a set on disk was built from something else than this run, or lacks some of
            its artifacts and is not to be extended.
        ConfigError: a teacher has more classes than the pseudo labels that are wanted can say.
        WeightsError: a teacher's weights are not there.
    """
    for name, teacher in targets.teachers.items():
        demand_labels_fit(targets.run.cache.artifacts, teacher.num_classes(), f"teachers.{name}")
    try:
        cache = Cache.open(targets.run.cache.path)
    except CacheIncomplete:
        cache = None
    wanted_sets = [
        (source, set_name, artifacts)
        for source, name in targets.names()
        for set_name, artifacts in targets.holdings(cache, source, name).items()
    ]
    identities = [targets.identity(of, name, artifacts=held) for of, name, held in wanted_sets]
    known = () if cache is None else cache.sets()
    plans = []
    for (source, set_name, artifacts), identity in zip(wanted_sets, identities, strict=True):
        frames, shard_frames = len(targets.items(source, set_name)), targets.preset.shard_frames
        committed: frozenset[int] = frozenset()
        if cache is not None and (source, set_name) in known:
            target = cache.artifact_set(source, set_name)
            target.require(identity)
            _demand_tiles(targets, target)
            committed = target.committed()
        elif cache is not None and set_name != teacher_of(set_name) and not extend:
            raise CacheMismatch(_lacking(cache, source, teacher_of(set_name), artifacts))
        wanted = range(-(-frames // shard_frames))
        missing = tuple(shard for shard in wanted if shard not in committed)
        plans.append(SetPlan(source, set_name, frames, shard_frames, missing, artifacts))
    return plans


def _demand_tiles(targets: Targets, target: ArtifactSet) -> None:
    """Refuse tiles that are not the cache's, where the run names some: no identity speaks of them.

    Raises:
        CacheMismatch: names each artifact that is cut otherwise.
    """
    if targets.run.cache.tile == "auto":
        return
    specs = target.arrays.values()
    cached = {spec.artifact: spec.to_dict() for spec in specs}
    wanted = {spec.artifact: replace(spec, tile=targets.tile(spec)).to_dict() for spec in specs}
    found = differences({"layout": {"arrays": cached}}, {"layout": {"arrays": wanted}})
    if found:
        raise mismatch(target.place, target.definition, found)


def _lacking(cache: Cache, source: str, teacher: str, artifacts: tuple[str, ...]) -> str:
    return (
        f"{cache.path}: {teacher!r} on {source!r} was built without artifacts that this run lists: "
        f"{', '.join(artifacts)}\n  run `stillroom cache extend` to add them beside it, or make "
        "the run agree with the cache"
    )
