"""`cache verify`: every committed shard checked against its manifest, on dask."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stillroom.storage_specs.store import ArtifactSet, Fault


@dataclass(frozen=True)
class SetVerdict:
    """What was found in one artifact set.

    missing: shards that have not been committed; an unfinished build, no fault
    """

    source: str
    set_name: str
    shards: int
    missing: tuple[int, ...]
    bad_frames: int
    faults: tuple[Fault, ...]


def verify_cache(
    path: Path, on_shard: Callable[[int, int], None] = lambda done, total: None
) -> list[SetVerdict]:
    """Check bytes, checksums, value ranges and coverage of a whole cache.

    on_shard: told (shards done, shards in all), from several threads

    Raises:
        CacheIncomplete: there is no cache at `path`.
    """
    from dask.base import compute
    from dask.delayed import delayed

    cache = Cache.open(path)
    targets = [cache.artifact_set(source, name) for source, name in cache.sets()]

    claims = [(target, shard) for target in targets for shard in range(target.shards)]
    done = itertools.count(1)

    def check(target: ArtifactSet, shard: int) -> list[Fault]:
        try:
            return target.verify_shard(shard)
        finally:
            on_shard(next(done), len(claims))

    tasks = [delayed(check, pure=False)(target, shard) for target, shard in claims]
    found: dict[tuple[str, str], list[Fault]] = defaultdict(list)
    results: tuple[list[Fault], ...] = compute(*tasks, scheduler="threads")  # type: ignore[no-untyped-call]
    for (target, _), faults in zip(claims, results, strict=True):
        found[target.source, target.name] += faults
    return [
        _verdict(target, target.verify_definition() + found[target.source, target.name])
        for target in targets
    ]


def _verdict(target: ArtifactSet, faults: list[Fault]) -> SetVerdict:
    known = target.committed() | {fault.shard for fault in faults}
    return SetVerdict(
        source=target.source,
        set_name=target.name,
        shards=target.shards,
        missing=tuple(shard for shard in range(target.shards) if shard not in known),
        bad_frames=target.rows().num_rows - len(target.usable()),
        faults=tuple(faults),
    )
