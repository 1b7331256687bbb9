"""`cache size`: what a run's cache would take in each tier, before there is any."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.estimate import SAMPLE_FRAMES, Sample, free_bytes
from stillroom.pipeline.targets import FRAMES, Targets, open_targets
from stillroom.storage_specs.presets import PRESETS, load_preset
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from stillroom.pipeline.config import RunConfig
    from stillroom.stages.cache.cache_shard import Produce
    from stillroom.stages.models.teacher import Teacher
    from stillroom.stages.sources.canvas import CanvasFrame

    Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class SetSize:
    """One artifact set: shards by tier, encoded bytes by tier and artifact."""

    source: str
    set_name: str
    frames: int
    artifacts: tuple[str, ...]
    shards: dict[str, int]
    bytes: dict[str, dict[str, int]]


@dataclass(frozen=True)
class SizePlan:
    """All sets in all tiers.

    frames: of all sources together
    overridden: artifacts whose storage the run file itself says, in every tier
    """

    tiers: tuple[str, ...]
    sets: tuple[SetSize, ...]
    frames: int
    sample_frames: int
    free_bytes: int | None
    overridden: tuple[str, ...]

    def total(self, tier: str) -> int:
        """Bytes of a tier."""
        return sum(sum(one.bytes[tier].values()) for one in self.sets)

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "sets": [
                {"source": one.source, "set": one.set_name, "frames": one.frames,
                 "shards": one.shards, "bytes": one.bytes}
                for one in self.sets
            ],
            "bytes": {tier: self.total(tier) for tier in self.tiers},
            "sample_frames": self.sample_frames,
            "free_bytes": self.free_bytes,
        }  # fmt: skip


def plan_size(
    run: RunConfig, on_set: Callable[[int, int], None] = lambda done, total: None
) -> SizePlan:
    """Encode a few frames of every source in every tier and project from there.

    A teacher sees the frames once; what is there at cache.path plays no part.

    Raises:
        ConfigError: a source cannot be opened.
        WeightsError: a teacher's weights are not there.
    """
    from stillroom.stages.models.teacher import build_teacher
    from stillroom.stages.torch_state import threads

    targets = open_targets(run)
    samples = {name: Sample(source) for name, source in targets.sources.items()}
    found, names = [], targets.names()
    built: tuple[str, Teacher] | None = None
    with (
        threads(run.cache.threads),
        tempfile.TemporaryDirectory(prefix="stillroom-size-") as folder,
    ):
        for done, (source, set_name) in enumerate(names, start=1):
            if set_name != FRAMES and (built is None or built[0] != set_name):
                built = None  # let the old one go before the new one takes its memory
                built = (set_name, build_teacher(targets.teachers[set_name]))
            teacher = built[1] if built is not None and set_name != FRAMES else None
            found.append(_set_size(targets, samples, Path(folder), (source, set_name), teacher))
            on_set(done, len(names))
    return SizePlan(
        tiers=PRESETS,
        sets=tuple(found),
        frames=sum(len(source) for source in targets.sources.values()),
        sample_frames=SAMPLE_FRAMES,
        free_bytes=free_bytes(run.cache.path),
        overridden=tuple(run.cache.codecs),
    )


def _set_size(
    targets: Targets,
    samples: dict[str, Sample],
    folder: Path,
    pair: tuple[str, str],
    teacher: Teacher | None,
) -> SetSize:
    from stillroom.stages.cache.artifacts_of_teacher import TeacherArtifacts
    from stillroom.stages.cache.cache_shard import (
        ShardJob,
        ShardWork,
        cache_shard,
        frames_and_labels,
    )

    source, set_name = pair
    settings = targets.run.cache
    produce: Produce = frames_and_labels
    if teacher is not None:
        produce = TeacherArtifacts(teacher, settings.artifacts, settings.threshold)
    remembered = _Remembered(produce)
    frames = len(targets.sources[source])
    shards: dict[str, int] = {}
    used: dict[str, dict[str, int]] = {}
    for tier in PRESETS:
        preset = load_preset(tier, settings.codecs, settings.shard_frames)
        sampled = Targets(targets.run, dict(samples), targets.teachers, preset)
        cache = Cache.create(folder / f"{tier}.cache")
        target = sampled.define(cache, source, set_name, teacher)
        for shard in range(target.shards):
            cache_shard(
                ShardJob(
                    work=ShardWork(source, set_name, shard),
                    source=samples[source],
                    canvas=settings.canvas,
                    produce=remembered,
                    target=target,
                    batch=settings.batch,
                    turn=contextlib.nullcontext(),
                )
            )
        scale = frames / len(samples[source])
        shards[tier] = -(-frames // preset.shard_frames)
        used[tier] = {name: round(count * scale) for name, count in target.sizes().items()}
    artifacts = targets.artifacts(source, set_name)
    return SetSize(source, set_name, frames, artifacts, shards, used)


class _Remembered:
    """Asks a teacher about each frame once, whatever the tier."""

    def __init__(self, produce: Produce) -> None:
        self._produce = produce
        self._made: dict[str, Arrays] = {}

    def __call__(self, frames: Sequence[CanvasFrame]) -> list[Arrays]:
        new = [frame for frame in frames if frame.frame_id not in self._made]
        if new:
            made = zip(new, self._produce(new), strict=True)
            self._made |= {frame.frame_id: arrays for frame, arrays in made}
        return [self._made[frame.frame_id] for frame in frames]
