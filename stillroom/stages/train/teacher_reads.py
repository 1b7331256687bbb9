"""What a stream takes of its teachers: which set of the cache holds it, or that it is made live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.stages.train.live_set import LiveSet
from stillroom.stages.train.reads import (
    LiveRead,
    Read,
    grid_of,
    held_or_stand_in,
    how_to_cache,
)
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.layout import teacher_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stillroom.stages.train.settings import TrainConfig
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.store import Cache

    AnySet = ArtifactSet | LiveSet


@dataclass(frozen=True)
class TeacherReads:
    """What a stream takes of its teachers.

    Attributes:
        cached: read from sets of the cache, by its name in a batch
        live: made in the step, likewise; of some frames what the rest reads from the cache
        stand_ins: by what is needed and not there, what is taken in its place
        sets: that are read, by name
        live_sets: of the teachers that may run in the step, by their names
    """

    cached: dict[str, Read]
    live: dict[str, LiveRead]
    stand_ins: dict[str, str]
    sets: dict[str, ArtifactSet]
    live_sets: dict[str, LiveSet]

    def strides(self) -> set[int]:
        """Return those of the grids that artifacts are on."""
        reads: list[Read | LiveRead] = [*self.cached.values(), *self.live.values()]
        return {one.out_stride for one in reads}

    def fingerprints(self, source: str) -> dict[str, str]:
        """Fingerprint of each set, by "<source>/<set>".

        Of a teacher that may run in the step it is the teacher's, however much the cache has by
        now: a run goes on when there is more.
        """
        found = {one.name: one.fingerprint for one in self.whole()}
        found |= {name: one.fingerprint for name, one in self.live_sets.items()}
        return {f"{source}/{name}": sha256 for name, sha256 in found.items()}

    def whole(self) -> list[ArtifactSet]:
        """Return the sets all of whose shards must be there: no teacher makes what they lack."""
        partly = {
            one.holder.name
            for one in self.cached.values()
            for live in [self.live_sets.get(teacher_of(one.holder.name))]
            if live is not None and one.artifact in live.arrays
        }
        return [one for name, one in self.sets.items() if name not in partly]


def teacher_sets(
    cache: Cache, source: str, teacher: str, settings: TrainConfig, live: Mapping[str, LiveSet]
) -> list[AnySet]:
    """Return the sets that a teacher's artifacts are looked for in, in this order.

    Args:
        live: of teachers that may run in the step, by name
    """
    cached = () if settings.teacher == "online" else cache.teacher_sets(source, teacher)
    return [*cached, *([live[teacher]] if teacher in live else [])]


def teacher_reads(
    needs: Iterable[str],
    teachers: Mapping[str, AnySet],
    out_stride: int,
    frame_ids: list[str],
    stream: str,
    source: str,
) -> TeacherReads:
    """Find where each artifact comes from: the first of the sets that has it, what that lacks live.

    Args:
        needs, out_stride: as for `CacheDataset`
        teachers: likewise; of each teacher its `LiveSet` last
        frame_ids: of the source
        stream, source: for messages

    Raises:
        ConfigError: no set has what is needed.
    """
    held = {f"{teacher_of(k)}/{each}" for k, one in teachers.items() for each in one.arrays}
    found = {read: held_or_stand_in(read, held) for read in sorted(needs)}
    grids = {read: grid_of(other, out_stride) for read, other in found.items()}
    for key in sorted({key for key, _ in grids.values()} - held):
        raise ConfigError(
            f"stream {stream!r} needs {key!r}; the cache holds for source {source!r} "
            f"{_listing(teachers)}; {how_to_cache(*reversed(key.split('/', 1)))}"
        )
    cached, live = {}, {}
    for read, (key, stride) in grids.items():
        teacher, _, artifact = key.partition("/")
        holders = [
            one
            for name, one in teachers.items()
            if teacher_of(name) == teacher and artifact in one.arrays
        ]
        first, last = holders[0], holders[-1]
        if not isinstance(first, LiveSet):
            cached[read] = Read(first, artifact, stride)
        if isinstance(last, LiveSet):
            missing = _not_cached(first, frame_ids)
            if missing != frozenset():
                live[read] = LiveRead(teacher, artifact, last.arrays[artifact], stride, missing)
    return TeacherReads(
        cached,
        live,
        stand_ins={read: other for read, other in found.items() if other != read},
        sets={one.holder.name: one.holder for _, one in sorted(cached.items())},
        live_sets={teacher_of(k): one for k, one in teachers.items() if isinstance(one, LiveSet)},
    )


def _not_cached(first: AnySet, frame_ids: list[str]) -> frozenset[str] | None:
    """Return the frames whose shards a set lacks; None, for all, of what is live alone."""
    if isinstance(first, LiveSet):
        return None
    there = first.committed()
    missing = (i for i in range(first.count) if i // first.shard_frames not in there)
    return frozenset(frame_ids[i] for i in missing)


def _listing(teachers: Mapping[str, AnySet]) -> str:
    held = [
        f"{teacher_of(name)}/{artifact}"
        for name, one in teachers.items()
        for artifact in one.arrays
    ]
    return ", ".join(held) or "no artifacts of the teachers it needs"
