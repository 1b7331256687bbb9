"""`cache build --dry-run`: bytes and minutes, measured on a few frames, nothing written."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build.cores import cores_here, thread_counts
from stillroom.pipeline.build.model_loader import ModelLoader, check_reuse, producer_for
from stillroom.pipeline.build.plan import SetPlan, plan_build
from stillroom.pipeline.build.sets import RunSet, define_set
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.stages.cache.cache_shard import ShardJob, ShardWork, cache_shard
from stillroom.stages.cache.shard_threads import ShardThreads, Turn
from stillroom.stages.torch_state import threads
from stillroom.storage_specs.errors import FrameError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.pipeline.identity import Model
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.cache_shard import ShardReport
    from stillroom.stages.cache.inputs import Inputs
    from stillroom.stages.cache.producers import Producer
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.manifest import FrameRow

SAMPLE_FRAMES = 4


@dataclass(frozen=True)
class SetEstimate:
    """What is left to do for one artifact set, projected from a sample.

    Attributes:
        bytes: encoded bytes by artifact
        seconds: of one worker, decoding and teacher together
    """

    plan: SetPlan
    bytes: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class BuildEstimate:
    """The whole plan; sizes are those of what is missing, not of what is there already.

    Attributes:
        free_bytes: where the cache is to be; None for an object store, which does not say
        lonely: by source of clips, how many frames are left out of the pairs, and how many are not
    """

    sets: tuple[SetEstimate, ...]
    free_bytes: int | None
    lonely: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Encoded bytes still to be written."""
        return sum(sum(estimate.bytes.values()) for estimate in self.sets)

    @property
    def seconds(self) -> float:
        """Of one worker, over all sets."""
        return sum(estimate.seconds for estimate in self.sets)

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON."""
        return {
            "sets": [
                {
                    "source": one.plan.source,
                    "set": one.plan.set_name,
                    "missing_frames": one.plan.missing_frames,
                    "missing_shards": len(one.plan.missing),
                    "bytes": one.bytes,
                    "seconds": one.seconds,
                }
                for one in self.sets
            ],
            "bytes": self.bytes,
            "seconds": self.seconds,
            "free_bytes": self.free_bytes,
            "lonely_frames": {source: lonely for source, (lonely, _) in self.lonely.items()},
        }


def estimate_build(
    run: RunConfig, *, extend: bool = False, retry_bad: bool = False
) -> BuildEstimate:
    """Cache a few frames of every source into a temporary folder and project from there.

    Args:
        extend, retry_bad: as for `plan_build`

    Raises:
        CacheMismatch: the cache on disk was built from something else.
        ConfigError, WeightsError: as `check_before_build`.
    """
    opened = open_run(run)
    plans = plan_build(opened, extend=extend, retry_bad=retry_bad)
    check_reuse(run, plans)
    models = ModelLoader(opened)
    with (
        threads(run.cache.threads),
        tempfile.TemporaryDirectory(prefix="stillroom-estimate-") as folder,
    ):
        cache = Cache.create(Path(folder) / "sample.cache")
        estimates = tuple(_estimate_set(opened, cache, plan, models) for plan in plans)
    lonely = {name: (p.plan.lonely, p.plan.chosen) for name, p in opened.pairs.items()}
    return BuildEstimate(estimates, free_bytes(run.cache.path), lonely)


def _estimate_set(
    opened: OpenedRun, cache: Cache, plan: SetPlan, models: ModelLoader
) -> SetEstimate:
    if not plan.missing:
        return SetEstimate(plan, {}, 0.0)
    models.look_at(plan.set_name, plan.artifacts)
    model, one = models.of(plan.set_name), RunSet(plan.source, plan.set_name, plan.artifacts)
    producer = producer_for(opened, one, model)
    inputs = sample_of(opened.inputs(plan.source, plan.set_name))
    load_seconds = _warmed_up(inputs, None if model is None else producer)
    sample, reports = cache_sample(opened, cache, one, model, producer)
    scale = plan.missing_frames / sample.count
    sizes = {name: round(size * scale) for name, size in sample.sizes().items()}
    # Beside reading and computing, each shard costs its commit, however many rows it has.
    rows = load_seconds + sum(report.produce_seconds for report in reports)
    commits = max(0.0, sum(report.wall_seconds for report in reports) - rows) / len(reports)
    return SetEstimate(plan, sizes, rows * scale + commits * len(plan.missing))


def cache_sample(
    opened: OpenedRun, cache: Cache, one: RunSet, model: Model | None, producer: Producer
) -> tuple[ArtifactSet, list[ShardReport]]:
    """Cache a few rows of a set, spread evenly over it.

    Args:
        model: that makes the set; None for the frames themselves
    """
    inputs = sample_of(opened.inputs(one.source, one.name))
    sample = define_set(opened, cache, one, model, len(inputs))
    turn, threads = Turn(), ShardThreads(*thread_counts(opened.run.cache, cores_here()))
    jobs = (
        ShardJob(
            work=ShardWork(one.source, one.name, shard, one.artifacts),
            inputs=inputs,
            produce=producer,
            target=sample,
            batch=opened.run.cache.batch,
            turn=turn,
            threads=threads,
        )
        for shard in range(sample.shards)
    )
    with threads:
        return sample, [cache_shard(job) for job in jobs]


@dataclass(frozen=True)
class _Sample:
    """Some of the rows of a set."""

    inputs: Inputs
    chosen: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.chosen)

    def load(self, index: int) -> Any:
        return self.inputs.load(self.chosen[index])

    def row(self, index: int) -> FrameRow:
        return replace(self.inputs.row(self.chosen[index]), index=index)

    def finished_row(self, index: int, loaded: Any, arrays: Any) -> FrameRow:
        return replace(self.inputs.finished_row(self.chosen[index], loaded, arrays), index=index)


def sample_of(inputs: Inputs) -> Inputs:
    """Return a few rows, spread evenly."""
    few = min(SAMPLE_FRAMES, len(inputs))
    return _Sample(inputs, tuple((2 * k + 1) * len(inputs) // (2 * few) for k in range(few)))


def _warmed_up(inputs: Inputs, producer: Producer | None) -> float:
    """Seconds of reading a few rows; then a model is called once, since first calls are slow."""
    began = time.perf_counter()
    loaded = []
    for index in range(len(inputs)):
        with contextlib.suppress(FrameError):
            loaded.append(inputs.load(index))
    seconds = time.perf_counter() - began
    if producer is not None and loaded:
        producer(loaded[:1])
    return seconds


def free_bytes(path: Path | str) -> int | None:
    """Free space where the cache is to be; the folder itself need not exist yet."""
    if not isinstance(path, Path):
        return None
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free
