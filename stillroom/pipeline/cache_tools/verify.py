"""`cache verify`: every committed shard checked against its manifest; and its repair."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.cache_tools.over_shards import claims_of, over_shards
from stillroom.storage_specs.errors import CacheError, CacheIncomplete
from stillroom.storage_specs.files.object_store import absolute
from stillroom.storage_specs.fingerprint import fingerprint
from stillroom.storage_specs.layout import set_folder
from stillroom.storage_specs.repair import damaged_cache, repair_root, repair_set, withdraw_set
from stillroom.storage_specs.store import Cache
from stillroom.storage_specs.verify import Fault, verify_definition, verify_pixels, verify_shard

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stillroom.storage_specs.artifact_set import ArtifactSet


@dataclass(frozen=True)
class SetVerdict:
    """What was found in one artifact set.

    source, set_name: both empty for the cache's own zarr.json
    shards: 0 where the set's own group is damaged, so that nobody knows
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
    ray_address: str | None = None,
) -> VerifyReport:
    """Check bytes, checksums, value ranges and coverage of a whole cache.

    on_shard: told (shards done, shards in all), from several threads
    repair: withdraw every damaged shard and set, so that the next build makes them again, and write
        again what follows from a definition; nothing else is touched
    ray_address: check the shards as tasks of a Ray cluster, whose machines must see `path`

    Raises:
        CacheIncomplete: there is no cache at `path`.
        CacheMismatch: it is none, or one of another format version.
        CacheUnwritable: a repair may not write there.
    """
    root: Fault | None = None
    try:
        # The tasks of a Ray cluster have another working folder.
        cache = Cache.open(path if ray_address is None else absolute(path))
    except CacheError as error:
        if isinstance(error, CacheIncomplete) or (known := damaged_cache(path)) is None:
            raise
        cache, root = known, Fault("", "", None, "zarr.json", None, "metadata", str(error))
    pairs = cache.sets()
    targets: dict[tuple[str, str], ArtifactSet] = {}
    found: dict[tuple[str, str], list[Fault]] = defaultdict(list)
    for pair in pairs:
        try:
            targets[pair] = cache.artifact_set(*pair)
        except CacheError as error:
            folder = set_folder(*pair)
            found[pair].append(Fault(*pair, None, folder, None, "metadata", str(error)))
    for target in targets.values():
        found[target.source, target.name] += verify_definition(target)
    for fault in _shard_faults(list(targets.values()), on_shard, ray_address) + _pixel_faults(
        targets
    ):
        found[fault.source, fault.set_name].append(fault)
    # Before the repair: what it withdraws is not "missing" in the words of this report.
    verdicts = [_verdict(pair, targets.get(pair), found[pair]) for pair in pairs]
    if root is not None:
        verdicts.insert(0, SetVerdict("", "", 0, (), 0, (root,)))
    if repair:
        repaired = (tuple(_repair(cache, each, targets)) for each in verdicts)
        verdicts = [replace(a, repaired=b) for a, b in zip(verdicts, repaired, strict=True)]
    return VerifyReport(path, tuple(verdicts))


def _shard_faults(
    targets: list[ArtifactSet], on_shard: Callable[[int, int], None], ray_address: str | None
) -> list[Fault]:
    claims = claims_of(targets)
    results = over_shards(verify_shard, claims, on_shard, ray_address=ray_address)
    return [fault for faults in results for fault in faults]


def _pixel_faults(targets: dict[tuple[str, str], ArtifactSet]) -> list[Fault]:
    """Frames that sets of one source, listing and canvas made from different pixels."""
    by_source: dict[str, list[ArtifactSet]] = defaultdict(list)
    for (source, _), target in targets.items():
        seen = {key: target.identity.get(key) for key in ("source", "canvas")}
        by_source[f"{source} {fingerprint(seen)}"].append(target)
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
    if not verdict.faults:
        return []
    if not verdict.source:
        return repair_root(cache)
    target = targets.get((verdict.source, verdict.set_name))
    if target is None:
        return withdraw_set(cache, verdict.source, verdict.set_name)
    return repair_set(target, verdict.faults)
