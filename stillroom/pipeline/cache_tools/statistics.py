"""`cache stats`: classes, confidence and thresholds of a whole cache, shard by shard, merged."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.pipeline.cache_tools.over_shards import over_shards
from stillroom.pipeline.cache_tools.stats_counter import (
    SetStats,
    StatsCounter,
    confidence_of,
    labels_of,
)
from stillroom.storage_specs.artifacts import FEATURES, FRAMES
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError
from stillroom.storage_specs.files.object_store import absolute
from stillroom.storage_specs.store import BUILD, Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.storage_specs.artifact_set import ArtifactSet

SUFFIXES = (".npz", ".safetensors")


@dataclass(frozen=True)
class StatsReport:
    """Every set, and the files that were written."""

    sets: tuple[SetStats, ...]
    features: Path | None = None
    picture: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers and the names of the files as JSON."""
        return {
            "sets": [one.to_dict() for one in self.sets],
            "features": None if self.features is None else str(self.features),
            "picture": None if self.picture is None else str(self.picture),
        }


@dataclass(frozen=True)
class StatsRequest:
    """What to count.

    Attributes:
        source: only this one; all of them if left out
        features: "features/<layer>" or "<layer>": its moments by class go into `out`, .npz or
            .safetensors
        plot: PNG of charts
    """

    source: str | None = None
    features: str | None = None
    out: Path | None = None
    plot: Path | None = None

    @property
    def array(self) -> str | None:
        """The array of `features`."""
        if self.features is None or self.features.startswith(f"{FEATURES}/"):
            return self.features
        return f"{FEATURES}/{self.features}"


def measure_stats(
    folder: Path | str,
    request: StatsRequest,
    *,
    address: str | None = None,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> StatsReport:
    """Count what every teacher's set, and every source's targets, hold: of usable frames.

    Args:
        address: work on a Ray cluster whose machines see `folder`

    Raises:
        CacheIncomplete: there is no teacher's set, or nothing of it is committed.
        ConfigError: no such source or layer, or a file of another kind.
    """
    out, plot = request.out, request.plot
    _check_files(request.array, out, plot)
    cache = Cache.open(folder if address is None else absolute(folder))
    targets = _chosen(cache, request)
    shards = {one: sorted(one.committed()) for one in targets if one.committed()}
    if not shards:
        raise CacheIncomplete(f"{folder}: nothing is committed; {BUILD}")
    counter = StatsCounter(
        request.array,
        {(one.source, one.name): labels_of(cache, one) for one in shards},
        {(one.source, one.name): confidence_of(cache, one) for one in shards},
    )
    pieces = over_shards(counter, shards, on_shard, address=address)
    # In the order of the shards: the same sums whichever was ready first.
    sets = tuple(
        counter.result(one, reduce(lambda a, b: a.merge(b), found)) for one, found in pieces.items()
    )
    if out is not None and request.array is not None:
        _write_moments(out, request.array, sets)
    if plot is not None:
        _draw(plot, folder, sets)
    return StatsReport(sets, out, plot)


def _chosen(cache: Cache, request: StatsRequest) -> list[ArtifactSet]:
    source, array = request.source, request.array
    pairs = [pair for pair in cache.sets() if source in (None, pair[0])]
    targets = [one for one in (cache.artifact_set(*pair) for pair in pairs) if _counts(one)]
    if not targets:
        known = ", ".join(map("/".join, cache.sets())) or "nothing"
        raise CacheIncomplete(
            f"{cache.path}: no teacher's set{'' if source is None else f' on source {source!r}'}; "
            f"it holds {known}"
        )
    if array is not None and not any(array in one.arrays for one in targets):
        layers = sorted({name for one in targets for name in one.arrays if "/" in name})
        raise ConfigError(f"no {array!r} in {cache.path}; it holds {', '.join(layers) or 'none'}")
    return targets


def _counts(one: ArtifactSet) -> bool:
    """Tell whether a set has more to count than labels, which are counted beside teachers."""
    kinds = (spec.kind.statistics for spec in one.arrays.values())
    return one.name != FRAMES or any(kind == "range" for kind in kinds)


def _check_files(array: str | None, out: Path | None, plot: Path | None) -> None:
    """Check before the work that its result can be written."""
    if (array is None) != (out is None):
        raise ConfigError("--features LAYER and --out FILE belong together: one needs the other")
    if out is not None and out.suffix not in SUFFIXES:
        raise ConfigError(f"{out}: expected a file named {' or '.join(SUFFIXES)}")
    for path in (out, plot):
        if path is not None:
            from stillroom.stages.pictures.page import make_place

            make_place(path)


def _write_moments(out: Path, array: str, sets: Sequence[SetStats]) -> None:
    """Write the moments of an array in every set, and the sets' fingerprints; nothing is pickled.

    Raises:
        ConfigError: the file cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    about: dict[str, Any] = {"layer": array, "sets": {}}
    for one in sets:
        moments, count = one.stats.features, len(one.classes)
        if not moments.mean.shape[1]:
            continue  # the set does not hold the array
        whole, name = moments.total(), f"{one.source}/{one.teacher}"
        for key in ("count", "mean", "variance"):
            arrays[f"{name}/{key}"] = getattr(whole, key)[0]
            arrays[f"{name}/class_{key}"] = getattr(moments, key)[:count]
        about["sets"][name] = {
            "fingerprint": one.fingerprint,
            "classes": list(one.classes),
            "classes_from": one.feature_classes,
            "frames": one.stats.frames,
        }
    arrays = {name: np.ascontiguousarray(array, np.float64) for name, array in arrays.items()}
    if out.suffix == ".npz":
        sink = io.BytesIO()
        np.savez(sink, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
        content = sink.getvalue()
    else:
        from stillroom.stages.train.terms.class_moments import pack_class_moments

        content = pack_class_moments(arrays, about)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from error


def _draw(plot: Path, folder: Path | str, sets: Sequence[SetStats]) -> None:
    from stillroom.stages.pictures.stats_chart import StatsRow, stats_chart

    rows = [
        StatsRow(f"{one.teacher} on {one.source}", one.classes, one.stats)
        for one in sets
        if one.stats.of_classes or not one.stats.ranges
    ]
    if not rows:
        raise ConfigError(f"{plot}: charts show classes and confidence, and {folder} has neither")
    stats_chart(plot, rows, title=f"Statistics of {str(folder).rpartition('/')[2]}")
