"""`cache copy`: the committed shards of a cache into another place, checked on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.pipeline.cache_tools.over_shards import over_shards
from stillroom.storage_specs.errors import CacheIncomplete, CacheMismatch, ConfigError
from stillroom.storage_specs.files.object_store import absolute
from stillroom.storage_specs.shards.copy_shard import copy_shard
from stillroom.storage_specs.store import Cache
from stillroom.storage_specs.weights_file import copy_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stillroom.storage_specs.artifact_set import ArtifactSet


@dataclass(frozen=True)
class SetCopied:
    """One set: shards copied now and before, those that the source has not, and bytes now."""

    source: str
    set_name: str
    shards: int
    already: int
    missing: int
    bytes: int


def copy_cache(
    folder: Path | str,
    out: Path | str,
    *,
    source: str | None = None,
    set_name: str | None = None,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> list[SetCopied]:
    """Copy every committed shard that is not in `out`; running it again goes on.

    Args:
        source, set_name: only these; all of them if left out

    Raises:
        CacheIncomplete: there is no cache, or no such set.
        CacheMismatch: `out` holds something else than a copy of this cache.
        CacheCorrupt: bytes differ from what was committed; nothing of that shard is recorded.
        CacheUnwritable: no space, no permission; what is copied is kept.
    """
    origin = Cache.open(folder)
    sets = _chosen(origin, source, set_name)
    _refuse_another(origin, folder, out)
    made = Cache.create(out)
    copies = {one: _define(made, one) for one in sets}
    before = {one: copy.committed() for one, copy in copies.items()}
    copy_weights(origin, made, [one.name for one in sets])
    shards = {one: sorted(one.committed() - before[one]) for one in sets}
    sizes = over_shards(lambda one, shard: copy_shard(one, copies[one], shard), shards, on_shard)
    return [
        SetCopied(
            source=one.source,
            set_name=one.name,
            shards=len(sizes[one]),
            already=len(before[one]),
            missing=one.shards - len(one.committed() | before[one]),
            bytes=sum(sizes[one]),
        )
        for one in sets
    ]


def _chosen(cache: Cache, source: str | None, set_name: str | None) -> list[ArtifactSet]:
    chosen = [
        pair for pair in cache.sets() if source in (None, pair[0]) and set_name in (None, pair[1])
    ]
    if not chosen:
        known = ", ".join("/".join(each) for each in cache.sets()) or "nothing"
        raise CacheIncomplete(f"{cache.path}: no such set; it holds {known}")
    return [cache.artifact_set(*pair) for pair in chosen]


def _define(cache: Cache, of: ArtifactSet) -> ArtifactSet:
    return cache.define(
        of.source,
        of.name,
        of.identity,
        count=of.count,
        shard_frames=of.shard_frames,
        arrays=of.definition.arrays,
    )


def _refuse_another(origin: Cache, folder: Path | str, out: Path | str) -> None:
    """Refuse an `out` that holds sets of another cache: two would become one."""
    try:
        there = Cache.open(out)
    except CacheIncomplete:
        return
    if absolute(there.path) == absolute(origin.path):
        raise ConfigError(f"{out}: this is the cache that is read; name another folder")
    mine = {pair: origin.artifact_set(*pair).fingerprint for pair in origin.sets()}
    for pair in there.sets():
        found = there.artifact_set(*pair).fingerprint
        if mine.get(pair) != found:
            raise CacheMismatch(
                f"{out} holds another cache: its set {'/'.join(pair)} ({found[:12]}...) is not "
                f"one of {folder}; copy into a new folder"
            )
