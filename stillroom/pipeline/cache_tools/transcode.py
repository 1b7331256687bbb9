"""`cache transcode`: the same frames in another tier, other codecs or other shards.

An artifact that keeps its codec is copied as it is encoded; one that had a lossless codec is
encoded again. Both leave the very bytes that a build would have made: so the identity is a build's,
and a build goes on with it. Where a lossy codec is replaced by another, the bytes are not a build's
any more: the identity names, under "transcoded_from", the fingerprint of the set before and the
codecs of these artifacts. A reader (training) takes such a set for what it is stored as; a build,
which would mix two kinds of bytes, refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
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

    Attributes:
        codecs: by artifact, the codec before and after, where they differ
        notes: on their errors
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
    """What is to change.

    Attributes:
        preset: "fast", "compact" or "exact"; left out, everything keeps the storage that it has
        codecs: changes by artifact, as cache.codecs in a run file
        shard_frames: of every set; left out, the preset's, or as it is
    """

    preset: str | None = None
    codecs: dict[str, Any] = field(default_factory=dict)
    shard_frames: int | None = None

    def of_cache(self, cache: Cache) -> list[_SetChange]:
        """Return the change of every set; refuse a change of what none of them holds."""
        found = [self._of_set(cache.artifact_set(*pair)) for pair in cache.sets()]
        held = {name for one in found for name in one.specs}
        for name in self.codecs:
            if not any(name in (one, one.partition("/")[0]) for one in held):
                raise ConfigError(f"--codec {name}: the cache holds {', '.join(sorted(held))}")
        return found

    def _of_set(self, before: ArtifactSet) -> _SetChange:
        presets = load_preset(self.preset or "fast", self.codecs, self.shard_frames)
        specs = {}
        for name, spec in before.arrays.items():
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
        kept = presets.shard_frames if self.preset is not None else before.shard_frames
        return _SetChange(before, specs, self.shard_frames or kept)


def transcode_cache(
    folder: Path | str,
    out: Path | str,
    change: Change,
    *,
    address: str | None = None,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> list[SetTranscoded]:
    """Write the frames of a cache into another one; running it again does what is missing.

    Args:
        address: of a cluster whose machines see both caches

    Raises:
        CacheIncomplete: there is no cache at `folder`.
        CacheMismatch: `out` holds something else.
        CacheCorrupt: a checksum fails in the source.
        ConfigError: an unknown preset, codec or artifact, or `out` is the source itself.
    """
    if change == Change():
        raise ConfigError("nothing to change: name a --preset, a --codec or --shard-frames")
    if address is not None:
        folder, out = absolute(folder), absolute(out)
    if absolute(out) == absolute(folder):
        raise ConfigError(f"{out}: this is the cache that is read; name another folder")
    origin = Cache.open(folder)
    changes = change.of_cache(origin)
    made = Cache.create(out)
    copy_weights(origin, made, [one.before.name for one in changes])
    targets = {one.define(made): one for one in changes}
    committed = {target: target.committed() for target in targets}
    shards = {t: sorted(set(one.ready()) - committed[t]) for t, one in targets.items()}
    sources = {(one.before.source, one.before.name): one.before for one in changes}
    for before in sources.values():
        before.watch()
    over_shards(partial(_transcode_shard, sources), shards, on_shard, address=address)
    return [
        one.report(target, before=len(committed[target]), now=len(shards[target]))
        for target, one in targets.items()
    ]


def _transcode_shard(
    sources: dict[tuple[str, str], ArtifactSet], target: ArtifactSet, shard: int
) -> None:
    """Fill one shard from the set before, which `sources` has by source and set."""
    before = sources[target.source, target.name]
    same = {
        name for name in before.arrays if before.arrays[name].codec == target.arrays[name].codec
    }
    writer = target.writer(shard)
    rows: dict[int, FrameRow] = {}
    for index in target.shard_range(shard):
        if index not in rows:
            part = before.part(index // before.shard_frames)
            rows = {row.index: row for row in part.rows}
        if rows[index].status == "ok":
            values = {
                name: before.encoded(name, index) if name in same else before.read(name, index)
                for name in before.arrays
            }
            writer.put(rows[index], values)
        else:
            writer.bad(rows[index])
    writer.commit()


@dataclass(frozen=True, eq=False)
class _SetChange:
    """A set as it is, and its arrays and shards as they are to be."""

    before: ArtifactSet
    specs: dict[str, ArraySpec]
    shard_frames: int

    def identity(self) -> dict[str, Any]:
        identity = dict(self.before.identity)
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
            identity[TRANSCODED] = {"fingerprint": self.before.fingerprint, "codecs": lost}
            if before is not None:
                identity[TRANSCODED]["before"] = before
        return identity

    def define(self, cache: Cache) -> ArtifactSet:
        return cache.define(
            self.before.source,
            self.before.name,
            self.identity(),
            count=self.before.count,
            shard_frames=self.shard_frames,
            arrays=list(self.specs.values()),
        )

    def ready(self) -> list[int]:
        """Return the new shards whose frames are all committed in the set as it is."""
        committed, old, new = self.before.committed(), self.before.shard_frames, self.shard_frames
        count = self.before.count
        return [
            shard
            for shard in range(-(-count // new))
            if committed.issuperset(
                index // old for index in range(shard * new, min((shard + 1) * new, count))
            )
        ]

    def report(self, target: ArtifactSet, before: int, now: int) -> SetTranscoded:
        return SetTranscoded(
            source=target.source,
            set_name=target.name,
            shards=now,
            already=before,
            waiting=target.shards - before - now,
            bytes_before=sum(self.before.sizes().values()),
            bytes_after=sum(target.sizes().values()),
            codecs=self.changed(),
            notes=self.notes(),
            fingerprint=target.fingerprint,
        )

    def changed(self) -> dict[str, tuple[str, str]]:
        return {
            name: (self.before.arrays[name].codec.name, spec.codec.name)
            for name, spec in self.specs.items()
            if self.before.arrays[name].codec != spec.codec
        }

    def lost(self) -> dict[str, Any]:
        """Return, by artifact that goes from a lossy codec to another one, the lossy codec."""
        return {
            name: self.before.arrays[name].codec.to_dict()
            for name in self.changed()
            if not _loses_nothing(self.before.arrays[name])
        }

    def notes(self) -> tuple[str, ...]:
        """Return what a second lossy codec means, judged by the bounds on one frame."""
        notes = []
        usable = self.before.usable()
        for name in self.lost() if len(usable) else ():
            old, new = self.before.arrays[name].codec, self.specs[name].codec
            values = self.before.read(name, int(usable[0]))
            if np.mean(new.bound(values)) <= np.mean(old.bound(values)):
                what = f"keeps the error of {old.name} and gains nothing but another form"
            else:
                what = "adds its own error to that before"
            notes.append(f"{name}: {old.name} -> {new.name} {what}")
        return tuple(notes)


def _loses_nothing(spec: ArraySpec) -> bool:
    ramp = np.linspace(0, 1, int(np.prod(spec.shape))).reshape(spec.shape)
    return float(np.max(spec.codec.bound(ramp.astype(spec.kind.dtype)))) == 0
