"""Open the frames of a run's stream in a cache: which targets and which of its frames it has."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from stillroom.stages.train.clip_flow import CachedFlow
from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.train.teacher_reads import teacher_sets
from stillroom.storage_specs.artifacts import FRAMES, LABELS, TARGETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.stages.train.live_set import LiveSet
    from stillroom.stages.train.settings import StreamConfig, TrainConfig
    from stillroom.storage_specs.store import Cache


def open_dataset(
    cache: Cache,
    name: str,
    settings: TrainConfig,
    needs: frozenset[str],
    out_stride: int,
    live: Mapping[str, LiveSet] = MappingProxyType({}),
) -> CacheDataset:
    """Open what stream `name` of a run reads, from a cache.

    Args:
        needs: the objective's, for such a stream; a target other than labels by its name
        live: of teachers that run in the step, by name
    """
    stream = settings.streams[name]
    source = stream.source or name
    frames = cache.artifact_set(source, FRAMES)
    teachers = sorted({key.partition("/")[0] for key in needs - frozenset(TARGETS)})
    return CacheDataset(
        name,
        frames,
        {
            one.name: one
            for teacher in teachers
            # A teacher of which nothing is there is named by the error of its own set.
            for one in teacher_sets(cache, source, teacher, settings, live)
            or [cache.artifact_set(source, teacher)]
        },
        needs=needs,
        view=settings.view,
        jitter=settings.jitter,
        labelled=LABELS in targets_of(cache, name, stream),
        indices=choose(frames.count, stream),
        out_stride=out_stride,
        seed=settings.seed,
        flow=_flow(cache, source, stream),
    )


def _flow(cache: Cache, source: str, stream: StreamConfig) -> CachedFlow | None:
    if stream.triplets is None:
        return None
    return CachedFlow(cache.artifact_set(source, stream.triplets), stream.draws)


def is_labelled(cache: Cache, name: str, stream: StreamConfig) -> bool:
    """Tell whether a stream's terms read its own targets: by its setting, or if it has any."""
    return bool(targets_of(cache, name, stream))


def targets_of(cache: Cache, name: str, stream: StreamConfig) -> frozenset[str]:
    """Return the names of a stream's targets that terms may read; labels where it claims some."""
    if stream.labelled is False:
        return frozenset()
    held = cache.artifact_set(stream.source or name, FRAMES).arrays.keys() & TARGETS
    return frozenset(held or ({LABELS} if stream.labelled else ()))


def choose(count: int, stream: StreamConfig) -> list[int]:
    """Return the frames of a source of `count` that a stream goes through, bad ones included."""
    return [i for i in range(count) if (i % stream.every == 0) != stream.complement]
