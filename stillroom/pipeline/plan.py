"""What a build has to do: the shards that are wanted and not committed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.stages.cache.cache_shard import ShardWork
from stillroom.storage_specs.errors import CacheIncomplete
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.pipeline.targets import Targets


@dataclass(frozen=True)
class SetPlan:
    """One artifact set: how much of it there is to be, and which shards are missing."""

    source: str
    set_name: str
    frames: int
    shard_frames: int
    missing: tuple[int, ...]

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


def plan_build(targets: Targets) -> list[SetPlan]:
    """Wanted shards minus committed shards, set by set. Reads the cache, writes nothing.

    What every set is made from is settled first: a file that is missing is found before anything
    is cached.

    Raises:
        CacheMismatch: a set on disk was built from something else than this run.
        WeightsError: a teacher's weights are not there.
    """
    try:
        cache = Cache.open(targets.run.cache.path)
    except CacheIncomplete:
        cache = None
    identities = {pair: targets.identity(*pair) for pair in targets.names()}
    known = () if cache is None else cache.sets()
    plans = []
    for (source, set_name), identity in identities.items():
        frames, shard_frames = len(targets.sources[source]), targets.preset.shard_frames
        committed: frozenset[int] = frozenset()
        if cache is not None and (source, set_name) in known:
            target = cache.artifact_set(source, set_name)
            target.require(identity)
            committed = target.committed()
        wanted = range(-(-frames // shard_frames))
        missing = tuple(shard for shard in wanted if shard not in committed)
        plans.append(SetPlan(source, set_name, frames, shard_frames, missing))
    return plans
