"""`cache build --dry-run`: bytes and minutes, measured on a few frames, nothing written."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stillroom.pipeline.build.checks import check_reuse
from stillroom.pipeline.build.definition import define_set
from stillroom.pipeline.build.plan import SetPlan, plan_build
from stillroom.pipeline.build.producers import ModelLoader, producer_for
from stillroom.pipeline.run_file.opened_run import OpenedRun, open_run
from stillroom.stages.cache.cache_shard import ShardJob, ShardWork, cache_shard
from stillroom.stages.torch_state import threads
from stillroom.storage_specs.errors import FrameError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.cache_shard import Producer
    from stillroom.stages.cache.items import Items
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
    lonely: by source of clips, how many frames are left out of the pairs, and how many are not
    """

    sets: tuple[SetEstimate, ...]
    free_bytes: int | None
    lonely: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Encoded bytes still to be written."""
        return sum(sum(estimate.bytes.values()) for estimate in self.sets)


class Sample:
    """A few frames of a source, spread evenly over it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._indices = _places(len(source)).tolist()
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

    def labelled(self, index: int) -> bool:
        """As the source's."""
        return self._source.labelled(self._indices[index])

    def identity(self) -> dict[str, object]:
        """Of a sample; no cache that lasts is made from one."""
        return {"kind": "sample", "of": self._source.identity()}


def estimate_build(run: RunConfig, *, extend: bool = False) -> BuildEstimate:
    """Cache a few frames of every source into a temporary folder and project from there.

    extend: as for `plan_build`

    Raises:
        CacheMismatch: the cache on disk was built from something else.
        ConfigError, WeightsError: as `check_before_build`.
    """
    opened = open_run(run)
    plans = plan_build(opened, extend=extend)
    check_reuse(run, plans)
    samples = sampled(opened)
    models = ModelLoader(samples)
    with (
        threads(run.cache.threads),
        tempfile.TemporaryDirectory(prefix="stillroom-estimate-") as folder,
    ):
        cache = Cache.create(Path(folder) / "sample.cache")
        estimates = tuple(_estimate_set(samples, cache, plan, models) for plan in plans)
    lonely = {name: (p.plan.lonely, p.plan.chosen) for name, p in opened.pairs.items()}
    return BuildEstimate(estimates, free_bytes(run.cache.path), lonely)


def sampled(opened: OpenedRun) -> OpenedRun:
    """The same, of a few frames of every source, and a few of its pairs."""
    return replace(
        opened,
        sources={name: Sample(source) for name, source in opened.sources.items()},
        pairs={
            name: replace(items, plan=items.plan.take(_places(len(items))))
            for name, items in opened.pairs.items()
        },
    )


def _places(count: int) -> NDArray[np.int64]:
    """A few of `count` places, spread evenly."""
    few = min(SAMPLE_FRAMES, count)
    return np.array([(2 * k + 1) * count // (2 * few) for k in range(few)], np.int64)


def _estimate_set(
    samples: OpenedRun, cache: Cache, plan: SetPlan, models: ModelLoader
) -> SetEstimate:
    if not plan.missing:
        return SetEstimate(plan, {}, 0.0)
    model, items = models.of(plan.set_name), samples.items(plan.source, plan.set_name)
    producer = producer_for(model, samples, plan.source, plan.artifacts)
    load_seconds = _warmed_up(items, None if model is None else producer)
    target = define_set(samples, cache, plan.source, plan.set_name, plan.artifacts, model)
    report = cache_shard(
        ShardJob(
            work=ShardWork(plan.source, plan.set_name, 0, plan.artifacts),
            items=items,
            produce=producer,
            target=target,
            batch=samples.run.cache.batch,
            turn=contextlib.nullcontext(),
        )
    )
    scale = plan.missing_frames / report.frames
    sizes = {name: round(size * scale) for name, size in target.sizes().items()}
    # Beside reading and computing, each shard costs its commit, however many rows it has.
    rows = load_seconds + report.produce_seconds
    shards = max(0.0, report.wall_seconds - rows) * len(plan.missing)
    return SetEstimate(plan, sizes, rows * scale + shards)


def _warmed_up(items: Items, producer: Producer | None) -> float:
    """Seconds of reading a few rows; then a model is called once, since first calls are slow."""
    began = time.perf_counter()
    loaded = []
    for index in range(len(items)):
        with contextlib.suppress(FrameError):
            loaded.append(items.load(index))
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
