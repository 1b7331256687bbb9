"""`cache verify`: every committed shard checked against its manifest; and its repair."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.cache_tools.over_shards import over_shards
from stillroom.storage_specs.errors import CacheError, CacheIncomplete
from stillroom.storage_specs.files.object_store import absolute
from stillroom.storage_specs.fingerprint import fingerprint
from stillroom.storage_specs.repair import damaged_cache, repair_root, repair_set, withdraw_set
from stillroom.storage_specs.second_look import (
    check_definition,
    check_group,
    check_shard,
    confirmed_damage,
)
from stillroom.storage_specs.store import Cache
from stillroom.storage_specs.verify import READING, Fault, verify_pixels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stillroom.storage_specs.artifact_set import ArtifactSet


@dataclass(frozen=True)
class SetVerdict:
    """What was found in one artifact set.

    Attributes:
        source, set_name: both empty for the cache's own zarr.json
        shards: 0 where the set's own group is damaged, so that it is unknown
        missing: shards that have not been committed; an unfinished build, no fault
        repaired: what a repair withdrew or rewrote, a line each
    """

    source: str
    set_name: str
    shards: int
    missing: tuple[int, ...]
    bad_frames: int
    faults: tuple[Fault, ...]
    repaired: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifyReport:
    """What was found in a cache, set by set."""

    cache: Path | str
    sets: tuple[SetVerdict, ...]

    @property
    def faults(self) -> list[Fault]:
        """Of all sets."""
        return [fault for verdict in self.sets for fault in verdict.faults]

    @property
    def damage(self) -> list[Fault]:
        """Those of them that a repair withdraws or rewrites."""
        return confirmed_damage(self.faults)

    @property
    def repaired(self) -> list[str]:
        """Of all sets."""
        return [line for verdict in self.sets for line in verdict.repaired]

    @property
    def is_sound(self) -> bool:
        """Whether there is no fault, and no shard is missing."""
        return not any(verdict.faults or verdict.missing for verdict in self.sets)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "cache": str(self.cache),
            "faults": [
                {
                    "source": fault.source,
                    "set": fault.set_name,
                    "shard": fault.shard,
                    "array": fault.array,
                    "index": fault.index,
                    "kind": fault.kind,
                    "message": fault.message,
                }
                for fault in self.faults
            ],
            "repaired": self.repaired,
            "missing_shards": {f"{v.source}/{v.set_name}": list(v.missing) for v in self.sets},
        }


def verify_cache(
    path: Path | str,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
    *,
    repair: bool = False,
    address: str | None = None,
) -> VerifyReport:
    """Check bytes, checksums, value ranges and coverage of a whole cache.

    What looks damaged is read again, from the store: a fault is of the kind "reading", and nothing
    is withdrawn for it, where the bytes were others then.

    Args:
        on_shard: called with (shards done, shards in all), from several threads
        repair: withdraw every damaged shard and set, so that the next build makes them again, and
            write again what follows from a definition; nothing else is touched
        address: check the shards as tasks of a Ray cluster, whose machines must see `path`

    Raises:
        CacheIncomplete: there is no cache at `path`.
        CacheMismatch: it is none, or one of another format version.
        CacheUnwritable: a repair may not write there.
    """
    # The tasks of a Ray cluster have another working folder.
    cache, damaged = _open(path if address is None else absolute(path))
    targets, found = _open_sets(cache)
    shards = {target: range(target.shards) for target in targets.values()}
    results = over_shards(check_shard, shards, on_shard, address=address)
    of_shards = (fault for per_set in results.values() for each in per_set for fault in each)
    for fault in (*of_shards, *_pixel_faults(targets)):
        found[fault.source, fault.set_name].append(fault)
    # Before the repair: what it withdraws is not "missing" in the words of this report.
    verdicts = damaged + [_verdict(pair, targets.get(pair), found[pair]) for pair in found]
    if repair:
        repaired = [tuple(_repair(cache, each, targets)) for each in verdicts]
        verdicts = [replace(a, repaired=b) for a, b in zip(verdicts, repaired, strict=True)]
    return VerifyReport(path, tuple(verdicts))


def _open(path: Path | str) -> tuple[Cache, list[SetVerdict]]:
    """Open a cache, even if its zarr.json is damaged; the verdict then says so."""
    try:
        return Cache.open(path), []
    except CacheError as error:
        if isinstance(error, CacheIncomplete):
            raise
        fault = Fault("", "", None, "zarr.json", None, "metadata", str(error))
    try:
        known = Cache.open(path)
    except CacheError:
        damaged = damaged_cache(path)
        if damaged is None:
            raise
        known = damaged
    else:
        why = f"read wrong once, right the second time: {fault.message}"
        fault = replace(fault, kind=READING, message=why)
    return known, [SetVerdict("", "", 0, (), 0, (fault,))]


def _open_sets(
    cache: Cache,
) -> tuple[dict[tuple[str, str], ArtifactSet], dict[tuple[str, str], list[Fault]]]:
    """Open the sets that can be opened; return these, and the faults of all definitions."""
    targets, faults = {}, {}
    for pair in cache.sets():
        faults[pair] = check_group(cache, *pair)
        if not confirmed_damage(faults[pair]):
            targets[pair] = cache.artifact_set(*pair)
            faults[pair] += check_definition(targets[pair])
    return targets, faults


def _pixel_faults(targets: dict[tuple[str, str], ArtifactSet]) -> list[Fault]:
    """Find frames that sets of one source, listing and canvas made from different pixels."""
    by_source: dict[str, list[ArtifactSet]] = defaultdict(list)
    for (source, _), target in targets.items():
        made_from = {key: target.identity.get(key) for key in ("source", "canvas")}
        by_source[f"{source} {fingerprint(made_from)}"].append(target)
    return [fault for sets in by_source.values() for fault in verify_pixels(sets)]


def _verdict(pair: tuple[str, str], target: ArtifactSet | None, faults: list[Fault]) -> SetVerdict:
    if target is None:
        return SetVerdict(*pair, 0, (), 0, tuple(faults))
    known = target.committed() | {fault.shard for fault in faults}
    return SetVerdict(
        *pair,
        shards=target.shards,
        missing=tuple(shard for shard in range(target.shards) if shard not in known),
        bad_frames=target.rows().num_rows - len(target.usable()),
        faults=tuple(faults),
    )


def _repair(
    cache: Cache, verdict: SetVerdict, targets: dict[tuple[str, str], ArtifactSet]
) -> list[str]:
    damage = confirmed_damage(list(verdict.faults))
    if not damage:
        return []
    if not verdict.source:
        return repair_root(cache)
    target = targets.get((verdict.source, verdict.set_name))
    if target is None:
        return withdraw_set(cache, verdict.source, verdict.set_name)
    return repair_set(target, damage)
