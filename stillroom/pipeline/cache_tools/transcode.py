"""`cache transcode`: the same frames in another tier, other codecs or other shards.

What is re-encoded from a lossless codec, or keeps its codec (its stored numbers are then carried
over undecoded), ends in the very bytes that a build would have made: so its identity is a build's,
and a build goes on with it. Where a lossy codec stood before another, the bytes are a build's no
more: the identity says so under "transcoded_from", with the fingerprint of the set before and the
codecs that its artifacts had. A reader (training) takes such a set for what it is stored as; a
build, which would mix two kinds of bytes, refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.pipeline.cache_tools.over_shards import over_shards
from stillroom.pipeline.identity import TRANSCODED
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.files.object_store import absolute
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.presets import Storage, load_preset
from stillroom.storage_specs.store import Cache
from stillroom.storage_specs.weights_file import copy_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.manifest import FrameRow


@dataclass(frozen=True)
class SetTranscoded:
    """One set: shards that were made now, were there before, and wait for the source's shards.

    codecs: by artifact, the codec before and after, where they differ
    notes: what the reader should know of them
    """

    source: str
    set_name: str
    shards: int
    already: int
    waiting: int
    bytes_before: int
    bytes_after: int
    codecs: dict[str, tuple[str, str]]
    notes: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class Change:
    """What is to be otherwise.

    preset: "fast", "compact" or "exact"; left out, everything keeps the storage that it has
    codecs: changes by artifact, as cache.codecs in a run file
    shard_frames: of every set; left out, the preset's, or as it was
    """

    preset: str | None = None
    codecs: dict[str, Any] = field(default_factory=dict)
    shard_frames: int | None = None

    def plan(self, of: ArtifactSet) -> _Plan:
        """One set, before and after."""
        presets = load_preset(self.preset or "fast", self.codecs, self.shard_frames)
        specs = {}
        for name, spec in of.arrays.items():
            wanted = presets.storage(name)
            if self.preset is None:  # only what is named changes
                given = self.codecs.get(name, self.codecs.get(name.partition("/")[0], {}))
                named = {"codec"} if isinstance(given, str) else set(given)
                wanted = Storage(
                    wanted.codec if "codec" in named else spec.codec,
                    wanted.compressor if "compressor" in named else spec.compressor,
                )
            specs[name] = ArraySpec(
                name, spec.shape, wanted.codec, wanted.compressor, spec.attributes
            )
        kept = presets.shard_frames if self.preset is not None else of.shard_frames
        return _Plan(of, specs, self.shard_frames or kept)

    def check(self, plans: list[_Plan]) -> None:
        """Refuse a change of what no set holds."""
        held = {name for plan in plans for name in plan.specs}
        for name in self.codecs:
            if not any(name in (one, one.partition("/")[0]) for one in held):
                raise ConfigError(f"--codec {name}: the cache holds {', '.join(sorted(held))}")


def transcode_cache(
    folder: Path | str,
    out: Path | str,
    change: Change,
    *,
    ray_address: str | None = None,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> list[SetTranscoded]:
    """Write the frames of a cache into another one; running it again does what is missing.

    ray_address: of a cluster whose machines see both caches

    Raises:
        CacheIncomplete: there is no cache at `folder`.
        CacheMismatch: `out` holds something else.
        CacheCorrupt: a checksum fails in the source.
        ConfigError: an unknown preset, codec or artifact, or `out` is the source itself.
    """
    if change == Change():
        raise ConfigError("nothing to change: name a --preset, a --codec or --shard-frames")
    if ray_address is not None:
        folder, out = absolute(folder), absolute(out)
    if absolute(out) == absolute(folder):
        raise ConfigError(f"{out}: this is the cache that is read; name another folder")
    origin = Cache.open(folder)
    plans = [change.plan(origin.artifact_set(*pair)) for pair in origin.sets()]
    change.check(plans)
    made = Cache.create(out)
    copy_weights(origin, made, [plan.of.name for plan in plans])
    pairs = [(plan, plan.define(made)) for plan in plans]
    before = [target.committed() for _, target in pairs]
    source_of = {(plan.of.source, plan.of.name): plan.of for plan in plans}
    ready = [plan.ready() for plan in plans]
    claims = [
        (target, shard)
        for (_, target), there, able in zip(pairs, before, ready, strict=True)
        for shard in able
        if shard not in there
    ]
    over_shards(_Work(source_of), claims, on_shard, ray_address=ray_address)
    return [
        SetTranscoded(
            source=plan.of.source,
            set_name=plan.of.name,
            shards=len([shard for shard in able if shard not in there]),
            already=len(there),
            waiting=target.shards - len(there.union(able)),
            bytes_before=sum(plan.of.sizes().values()),
            bytes_after=sum(target.sizes().values()),
            codecs=plan.changed(),
            notes=plan.notes(),
            fingerprint=target.fingerprint,
        )
        for (plan, target), there, able in zip(pairs, before, ready, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Plan:
    """One set before and after."""

    of: ArtifactSet
    specs: dict[str, ArraySpec]
    shard_frames: int

    def identity(self) -> dict[str, Any]:
        identity = dict(self.of.identity)
        storages = {
            name: Storage(spec.codec, spec.compressor).to_dict()
            for name, spec in self.specs.items()
        }
        for key, value in (("shard_frames", self.shard_frames), ("artifacts", storages)):
            if key in identity:
                identity[key] = value
        lost = self.lost()
        if lost:
            before = identity.get(TRANSCODED)
            identity[TRANSCODED] = {"fingerprint": self.of.fingerprint, "codecs": lost}
            if before is not None:
                identity[TRANSCODED]["before"] = before
        return identity

    def define(self, cache: Cache) -> ArtifactSet:
        return cache.define(
            self.of.source,
            self.of.name,
            self.identity(),
            count=self.of.count,
            shard_frames=self.shard_frames,
            arrays=list(self.specs.values()),
        )

    def ready(self) -> list[int]:
        """Shards to be whose frames are all committed in the source."""
        committed, step = self.of.committed(), self.of.shard_frames
        shards = range(-(-self.of.count // self.shard_frames))
        return [
            shard
            for shard in shards
            if all(
                index // step in committed
                for index in range(
                    shard * self.shard_frames,
                    min((shard + 1) * self.shard_frames, self.of.count),
                )
            )
        ]

    def changed(self) -> dict[str, tuple[str, str]]:
        return {
            name: (self.of.arrays[name].codec.name, spec.codec.name)
            for name, spec in self.specs.items()
            if self.of.arrays[name].codec != spec.codec
        }

    def lost(self) -> dict[str, Any]:
        """By artifact that a lossy codec stored and another one stores now: the former codec."""
        return {
            name: self.of.arrays[name].codec.to_dict()
            for name in self.changed()
            if not _loses_nothing(self.of.arrays[name])
        }

    def notes(self) -> tuple[str, ...]:
        """What a second lossy codec means, judged by the bounds on one frame."""
        said = []
        usable = self.of.usable()
        for name in self.lost() if len(usable) else ():
            old, new = self.of.arrays[name].codec, self.specs[name].codec
            values = self.of.read(name, int(usable[0]))
            if np.mean(new.bound(values)) <= np.mean(old.bound(values)):
                what = f"keeps the error of {old.name} and gains nothing but another form"
            else:
                what = "adds its own error to that before"
            said.append(f"{name}: {old.name} -> {new.name} {what}")
        return tuple(said)


@dataclass(frozen=True, eq=False)
class _Work:
    """Fills one shard from the set before; a task of Ray gets it by pickle."""

    source_of: dict[tuple[str, str], ArtifactSet]

    def __call__(self, target: ArtifactSet, shard: int) -> None:
        of = self.source_of[target.source, target.name]
        writer = target.writer(shard)
        rows: dict[int, FrameRow] = {}
        for index in target.shard_range(shard):
            if index not in rows:
                rows = {row.index: row for row in of.part(index // of.shard_frames).rows}
            row = rows[index]
            if row.status == "ok":
                writer.put(row, {name: self._array(of, target, name, index) for name in of.arrays})
            else:
                writer.bad(row)
        writer.commit()

    def _array(self, of: ArtifactSet, target: ArtifactSet, name: str, index: int) -> Any:
        if of.arrays[name].codec == target.arrays[name].codec:
            return of.encoded(name, index)
        return of.read(name, index)


def _loses_nothing(spec: ArraySpec) -> bool:
    ramp = np.linspace(0, 1, int(np.prod(spec.shape))).reshape(spec.shape)
    return float(np.max(spec.codec.bound(ramp.astype(spec.kind.dtype)))) == 0
