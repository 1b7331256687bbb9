"""`cache size`: what a run's cache would take in each tier, before there is any."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build.estimate import SAMPLE_FRAMES, cache_sample, free_bytes
from stillroom.pipeline.build.model_loader import ModelLoader, producer_for
from stillroom.pipeline.build.sets import RunSet
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.storage_specs.presets import PRESETS, load_preset
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from stillroom.pipeline.identity import Model
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.inputs import CanvasPair
    from stillroom.stages.cache.producers import Producer
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

    Attributes:
        frames: of all sources together
        overridden: artifacts whose storage the run file sets, in every tier
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

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON."""
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

    A teacher runs once on each frame; a cache at cache.path is not read.

    Raises:
        ConfigError: a source cannot be opened.
        WeightsError: a teacher's weights are not there.
    """
    from stillroom.stages.torch_state import threads

    opened = open_run(run)
    found, names, models = [], opened.names(), ModelLoader(opened)
    with (
        threads(run.cache.threads),
        tempfile.TemporaryDirectory(prefix="stillroom-size-") as folder,
    ):
        for done, (source, set_name) in enumerate(names, start=1):
            model = models.of(set_name)
            rows = len(opened.inputs(source, set_name))
            found.append(_set_size(opened, Path(folder), (source, set_name), model, rows))
            on_set(done, len(names))
    return SizePlan(
        tiers=PRESETS,
        sets=tuple(found),
        frames=sum(len(source) for source in opened.sources.values()),
        sample_frames=SAMPLE_FRAMES,
        free_bytes=free_bytes(run.cache.path),
        overridden=tuple(run.cache.codecs),
    )


def _set_size(
    opened: OpenedRun, folder: Path, pair: tuple[str, str], model: Model | None, rows: int
) -> SetSize:
    """What a set of so many rows would take, by a few of them."""
    source, set_name = pair
    settings, one = opened.run.cache, RunSet(*pair, opened.artifacts(*pair))
    remembered = _Remembered(producer_for(opened, one, model))
    shards: dict[str, int] = {}
    used: dict[str, dict[str, int]] = {}
    for tier in PRESETS:
        preset = load_preset(tier, settings.codecs, settings.shard_frames)
        cache = Cache.create(folder / f"{tier}.cache")
        in_tier = replace(opened, preset=preset)
        sample, _ = cache_sample(in_tier, cache, one, model, remembered)
        shards[tier] = -(-rows // preset.shard_frames)
        scale = rows / sample.count
        used[tier] = {name: round(count * scale) for name, count in sample.sizes().items()}
    return SetSize(source, set_name, rows, one.artifacts, shards, used)


class _Remembered:
    """Asks a model about each frame, or pair, once, whatever the tier."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._made: dict[str, Arrays] = {}

    def __call__(self, items: Sequence[CanvasFrame | CanvasPair]) -> list[Arrays]:
        new = [item for item in items if item.frame_id not in self._made]
        if new:
            made = zip(new, self._producer(new), strict=True)
            self._made |= {item.frame_id: arrays for item, arrays in made}
        return [self._made[item.frame_id] for item in items]
