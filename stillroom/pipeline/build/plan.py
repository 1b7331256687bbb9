"""The plan of a build: the shards that are wanted and not committed."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stillroom.pipeline.build.sets import sets_of_run, tile_of
from stillroom.pipeline.identity import set_identity
from stillroom.stages.cache.cache_shard import ShardWork
from stillroom.stages.models.makers import demand_labels_fit
from stillroom.storage_specs.artifact_set import mismatch
from stillroom.storage_specs.artifacts import ARTIFACTS, FRAMES, LABELS, TARGETS
from stillroom.storage_specs.errors import CacheIncomplete, CacheMismatch, WeightsError
from stillroom.storage_specs.fingerprint import differences
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.manifest import bad_labels, bad_rows
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.pipeline.build.sets import RunSet
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.manifest import FrameRow

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetPlan:
    """One artifact set: how much of it there is to be, and which shards are missing.

    Attributes:
        frames: its rows: of a flow set they are pairs of frames
        artifacts: that it holds or is to hold
        retried: the bad rows, and those with a bad label, whose shards are to be withdrawn and
            computed again
        classes: names of the label values, where it holds labels
        labels: how many frames should have a label, or another target, where it holds some
    """

    source: str
    set_name: str
    frames: int
    shard_frames: int
    missing: tuple[int, ...]
    artifacts: tuple[str, ...]
    retried: tuple[FrameRow, ...] = ()
    classes: tuple[str, ...] = ()
    labels: int = 0

    @property
    def retried_shards(self) -> list[int]:
        """Those of `missing` that are committed still."""
        return sorted({row.index // self.shard_frames for row in self.retried})

    @property
    def shards(self) -> int:
        """How many shards the whole set has."""
        return -(-self.frames // self.shard_frames)

    @property
    def missing_frames(self) -> int:
        """How many frames the missing shards have."""
        return sum(
            min(self.shard_frames, self.frames - shard * self.shard_frames)
            for shard in self.missing
        )

    def works(self) -> list[ShardWork]:
        """List the missing shards, in order."""
        return [
            ShardWork(self.source, self.set_name, shard, self.artifacts) for shard in self.missing
        ]


def plan_build(
    opened: OpenedRun, *, extend: bool = False, retry_bad: bool = False
) -> list[SetPlan]:
    """Find the wanted shards that are not committed, set by set; reads the cache, writes nothing.

    What every set is made from is settled first: a file that is missing is found before anything
    is cached.

    Args:
        extend: put artifacts that a teacher's set lacks into an extension set beside it
        retry_bad: count shards with bad rows or bad labels as missing

    Raises:
        CacheMismatch: a set on disk was built from something else than this run, or lacks some of
            its artifacts and is not to be extended.
        ConfigError: a teacher has more classes than a pseudo label can hold, and these are wanted.
        WeightsError: a teacher's weights are not there.
    """
    run = opened.run
    for name in run.cached_teachers():
        teacher = opened.teachers[name]
        with suppress(WeightsError):  # it will be raised where it is in the way of something
            teacher.completed()  # what must be fetched for it is here from now on
        if teacher.classes is not None:
            classes = teacher.mapped().num_classes()
            demand_labels_fit(run.cache.artifacts, classes, f"teachers.{name}")
            _warn_of_other_classes(run, name, classes)
    try:
        cache = Cache.open(run.cache.path)
    except CacheIncomplete:
        cache = None
    sets = sets_of_run(opened, cache, opened.names())
    identities = [set_identity(opened, one.source, one.name, one.artifacts) for one in sets]
    for one, identity in zip(sets, identities, strict=True):
        if one.stored is not None:
            one.stored.require(identity)
            _demand_tiles(run, one.stored)
        elif one.name != teacher_of(one.name) and not extend:
            raise CacheMismatch(
                f"{run.cache.path}: {teacher_of(one.name)!r} on {one.source!r} was built without "
                f"artifacts that this run lists: {', '.join(one.artifacts)}\n"
                "  run `stillroom cache extend` to add them beside it, or make the run agree with "
                "the cache"
            )
    return [_planned(opened, one, retry_bad) for one in sets]


def _warn_of_other_classes(run: RunConfig, name: str, classes: int) -> None:
    """Warn of a teacher without a mapping to the labels' classes before it runs for hours."""
    labelled = next(filter(None, map(run.classes_of, run.sources)), None)
    kept = any(ARTIFACTS[each.partition("/")[0]].has_classes for each in run.cache.artifacts)
    if labelled is not None and classes != len(labelled) and kept:
        LOG.warning(
            "teacher %s has %d classes, the labels %d: a student of the labels' classes cannot "
            "learn from its logits and pseudo labels; give it a `mapping` (docs/teachers.md)",
            name,
            classes,
            len(labelled),
        )


def _planned(opened: OpenedRun, one: RunSet, retry_bad: bool) -> SetPlan:
    frames, shard_frames = len(opened.inputs(one.source, one.name)), opened.preset.shard_frames
    committed = frozenset() if one.stored is None else one.stored.committed()
    rows = one.stored.rows() if retry_bad and one.stored is not None else None
    bad = [] if rows is None else [*bad_rows(rows), *bad_labels(rows)]
    committed -= {row.index // shard_frames for row in bad}
    wanted = range(-(-frames // shard_frames))
    missing = tuple(shard for shard in wanted if shard not in committed)
    targets = [artifact for artifact in one.artifacts if one.name == FRAMES and artifact in TARGETS]
    return SetPlan(
        one.source,
        one.name,
        frames,
        shard_frames,
        missing,
        one.artifacts,
        retried=tuple(bad),
        classes=(opened.run.classes_of(one.source) or ()) if LABELS in targets else (),
        labels=opened.sources[one.source].label_count() if targets else 0,
    )


def _demand_tiles(run: RunConfig, target: ArtifactSet) -> None:
    """Refuse tiles that are not the cache's, where the run names some: no identity has them.

    Raises:
        CacheMismatch: names each artifact that is cut otherwise.
    """
    if run.cache.tile == "auto":
        return
    specs = target.arrays.values()
    cached = {spec.artifact: spec.to_dict() for spec in specs}
    wanted = {spec.artifact: replace(spec, tile=tile_of(run, spec)).to_dict() for spec in specs}
    found = differences({"layout": {"arrays": cached}}, {"layout": {"arrays": wanted}})
    if found:
        raise mismatch(target.place, target.definition, found)
