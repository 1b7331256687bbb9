"""`cache build --dry-run`: bytes and minutes, measured on a few frames, nothing written."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.pipeline.plan import SetPlan, plan_build
from stillroom.pipeline.targets import FRAMES, Targets, open_targets
from stillroom.stages.cache.artifacts_of_teacher import TeacherArtifacts
from stillroom.stages.cache.cache_shard import (
    Produce,
    ShardJob,
    ShardWork,
    cache_shard,
    frames_and_labels,
)
from stillroom.stages.models.teacher import build_teacher
from stillroom.stages.torch_state import threads
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.pipeline.config import RunConfig
    from stillroom.stages.models.teacher import Teacher
    from stillroom.stages.sources.source import Frame, Source

SAMPLE_FRAMES = 4


@dataclass(frozen=True)
class SetEstimate:
    """What is left to do for one artifact set, projected from a sample.

    bytes: encoded bytes by artifact
    seconds: of one worker, decoding and teacher together
    """

    plan: SetPlan
    bytes: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class BuildEstimate:
    """The whole plan; sizes are those of what is missing, not of what is there already.

    free_bytes: where the cache is to be; None for an object store, which does not say
    """

    sets: tuple[SetEstimate, ...]
    free_bytes: int | None

    @property
    def bytes(self) -> int:
        """Encoded bytes still to be written."""
        return sum(sum(estimate.bytes.values()) for estimate in self.sets)


class Sample:
    """A few frames of a source, spread evenly over it."""

    def __init__(self, source: Source) -> None:
        count = min(SAMPLE_FRAMES, len(source))
        self._source = source
        self._indices = [(2 * k + 1) * len(source) // (2 * count) for k in range(count)]
        self.classes = source.classes
        self.frame_ids = [source.frame_ids[index] for index in self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, index: int) -> Frame:
        """As the source's."""
        return self._source.load(self._indices[index])

    def position(self, index: int) -> tuple[str | None, int | None]:
        """As the source's."""
        return self._source.position(self._indices[index])

    def identity(self) -> dict[str, object]:
        """Of a sample; no cache that lasts is made from one."""
        return {"kind": "sample", "of": self._source.identity()}


def estimate_build(run: RunConfig, *, extend: bool = False) -> BuildEstimate:
    """Cache a few frames of every source into a temporary folder and project from there.

    extend: as for `plan_build`

    Raises:
        CacheMismatch: the cache on disk was built from something else.
    """
    targets = open_targets(run)
    plans = plan_build(targets, extend=extend)
    samples = replace(
        targets, sources={name: Sample(source) for name, source in targets.sources.items()}
    )
    estimates = []
    with (
        threads(run.cache.threads),
        tempfile.TemporaryDirectory(prefix="stillroom-estimate-") as folder,
    ):
        cache = Cache.create(Path(folder) / "sample.cache")
        built: tuple[str, Teacher] | None = None
        for plan in plans:
            if (
                plan.set_name != FRAMES
                and plan.missing
                and (not built or built[0] != teacher_of(plan.set_name))
            ):
                name = teacher_of(plan.set_name)
                built = (name, build_teacher(targets.teachers[name]))
            teacher = built[1] if built and built[0] == teacher_of(plan.set_name) else None
            estimates.append(_estimate_set(samples, cache, plan, teacher))
    return BuildEstimate(tuple(estimates), free_bytes(run.cache.path))


def _estimate_set(
    samples: Targets, cache: Cache, plan: SetPlan, teacher: Teacher | None
) -> SetEstimate:
    if not plan.missing:
        return SetEstimate(plan, {}, 0.0)
    settings = samples.run.cache
    produce: Produce = frames_and_labels
    if teacher is not None:
        produce = TeacherArtifacts(teacher, plan.artifacts, settings.threshold)
    target = samples.define(cache, plan.source, plan.set_name, teacher, plan.artifacts)
    report = cache_shard(
        ShardJob(
            work=ShardWork(plan.source, plan.set_name, 0),
            source=samples.sources[plan.source],
            canvas=settings.canvas,
            produce=produce,
            target=target,
            batch=settings.batch,
            turn=contextlib.nullcontext(),
        )
    )
    scale = plan.missing_frames / report.frames
    sizes = {name: round(size * scale) for name, size in target.sizes().items()}
    return SetEstimate(plan, sizes, report.wall_seconds * scale)


def free_bytes(path: Path | str) -> int | None:
    """Free space where the cache is to be; the folder itself need not exist yet."""
    if not isinstance(path, Path):
        return None
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free
