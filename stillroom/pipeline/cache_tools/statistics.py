"""`cache stats`: a whole cache in numbers, shard by shard, merged."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.pipeline.cache_tools.over_shards import over_shards
from stillroom.storage_specs.artifacts import FEATURES, FRAMES, LABELS, LOGITS, PSEUDO_LABEL
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError
from stillroom.storage_specs.files.object_store import absolute
from stillroom.storage_specs.store import BUILD, Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.evaluate.cache_stats import CacheStats
    from stillroom.storage_specs.artifact_set import ArtifactSet

SUFFIXES = (".npz", ".safetensors")


@dataclass(frozen=True)
class SetStats:
    """One teacher on one source.

    feature_classes: where the classes of the features come from: "labels", "pseudo_label", ""
    """

    source: str
    teacher: str
    fingerprint: str
    classes: tuple[str, ...]
    stats: CacheStats
    feature_classes: str
    missing_shards: int

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON."""
        return {
            "source": self.source,
            "teacher": self.teacher,
            "fingerprint": self.fingerprint,
            "missing_shards": self.missing_shards,
            **self.stats.document(self.classes),
        }


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
    """What is to be counted.

    source: only this one; all of them if left out
    features: "features/<layer>" or "<layer>": its moments by class go into `out`, .npz or
        .safetensors
    plot: PNG of charts
    """

    source: str | None = None
    features: str | None = None
    out: Path | None = None
    plot: Path | None = None


def measure_stats(
    folder: Path | str,
    request: StatsRequest,
    *,
    ray_address: str | None = None,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> StatsReport:
    """Count what every teacher's set of a cache holds, over the committed and usable frames.

    ray_address: work on a Ray cluster whose machines see `folder`

    Raises:
        CacheIncomplete: there is no teacher's set, or nothing of it is committed.
        ConfigError: no such source or layer, or a file of another kind.
    """
    source, out, plot = request.source, request.out, request.plot
    features = None if request.features is None else _array_of(request.features)
    _check_files(features, out, plot)
    cache = Cache.open(folder if ray_address is None else absolute(folder))
    pairs = [pair for pair in cache.sets() if pair[1] != FRAMES and source in (None, pair[0])]
    if not pairs:
        known = ", ".join(sorted({name for name, _ in cache.sets()})) or "nothing"
        raise CacheIncomplete(f"{folder}: no teacher's set on source {source!r}; it holds {known}")
    targets = [cache.artifact_set(*pair) for pair in pairs]
    if features is not None and not any(features in one.arrays for one in targets):
        layers = sorted({name for one in targets for name in one.arrays if "/" in name})
        raise ConfigError(f"no {features!r} in {folder}; it holds {', '.join(layers) or 'none'}")
    claims = [(one, shard) for one in targets for shard in sorted(one.committed())]
    if not claims:
        raise CacheIncomplete(f"{folder}: nothing is committed; {BUILD}")
    pieces = over_shards(_Work(features), claims, on_shard, ray_address=ray_address)
    merged = _merged(claims, pieces)
    sets = tuple(_named(cache, one, merged[one], features) for one in targets if one in merged)
    if out is not None and features is not None:
        _write_features(out, features, [one for one in sets if one.stats.features.mean.shape[1]])
    if plot is not None:
        _draw(plot, folder, sets)
    return StatsReport(sets, out, plot)


@dataclass(frozen=True)
class _Work:
    """What one shard comes to; a task of Ray gets it by pickle."""

    features: str | None

    def __call__(self, target: ArtifactSet, shard: int) -> CacheStats:
        from stillroom.stages.evaluate.cache_stats import CacheStats, stats_of_frame

        kept = _frames_of(target)
        classes = _class_count(target, kept)
        held = self.features in target.arrays
        channels = target.arrays[self.features].shape[0] if held and self.features else 0
        labelled = set() if kept is None else set(kept.usable().tolist())
        found = CacheStats.empty(classes, channels)
        for row in target.part(shard).rows:
            if row.status == "ok":
                with_label = kept if row.index in labelled else None
                valid = (row.valid_height, row.valid_width)
                frame = self._frame(target, with_label, row.index, valid)
                found = found.merge(stats_of_frame(frame, classes))
        return found

    def _frame(
        self, target: ArtifactSet, kept: ArtifactSet | None, index: int, valid: tuple[int, int]
    ) -> Any:
        from stillroom.stages.evaluate.cache_stats import StatsFrame

        def read(of: ArtifactSet, artifact: str | None) -> Any:
            return None if artifact is None else of.read(artifact, index)

        def stride(artifact: str | None) -> int:
            return int(target.arrays[artifact].attributes.get("stride", 1)) if artifact else 1

        scores, confidence = _held(target, "scores"), _held(target, "confidence")
        features = self.features if self.features in target.arrays else None
        ranges = [name for name, spec in target.arrays.items() if spec.kind.statistics == "range"]
        return StatsFrame(
            label=None if kept is None else read(kept, _held(kept, "classes")),
            pseudo_label=read(target, _held(target, "classes")),
            logits=read(target, scores),
            confidence=None if scores else read(target, confidence),
            features=read(target, features),
            stride=stride(scores or confidence),
            features_stride=stride(features),
            size=_canvas(target, kept),
            valid=valid,
            ranges={name: (read(target, name), stride(name)) for name in ranges},
        )


def _held(of: ArtifactSet, statistics: str) -> str | None:
    """The first array of a set of which such statistics are taken."""
    names = (name for name, spec in of.arrays.items() if spec.kind.statistics == statistics)
    return next(names, None)


def _frames_of(target: ArtifactSet) -> ArtifactSet | None:
    """The labels of a set's source, where they speak of the teacher's classes."""
    cache = Cache(target.place)
    if (target.source, FRAMES) not in cache.sets():
        return None
    kept = cache.artifact_set(target.source, FRAMES)
    if LABELS not in kept.arrays:
        return None
    mine, theirs = _class_names(kept), _class_names(target)
    return None if mine is not None and theirs is not None and mine != theirs else kept


def _class_names(target: ArtifactSet) -> tuple[str, ...] | None:
    for spec in target.arrays.values():
        if "classes" in spec.attributes:
            return tuple(map(str, spec.attributes["classes"]))
    return None


def _class_count(target: ArtifactSet, kept: ArtifactSet | None) -> int:
    if LOGITS in target.arrays:
        return int(target.arrays[LOGITS].shape[0])
    names = _class_names(target) or (None if kept is None else _class_names(kept))
    return 255 if names is None else len(names)


def _canvas(target: ArtifactSet, kept: ArtifactSet | None) -> tuple[int, int]:
    canvas = target.identity.get("canvas")
    if canvas is not None:
        return int(canvas["height"]), int(canvas["width"])
    for of, artifact in ((kept, LABELS), (target, PSEUDO_LABEL)):
        if of is not None and artifact in of.arrays:
            height, width = of.arrays[artifact].shape
            return height, width
    raise ConfigError(f"{target!r}: its identity does not tell the canvas")


def _merged(
    claims: Sequence[tuple[ArtifactSet, int]], pieces: Sequence[CacheStats]
) -> dict[ArtifactSet, CacheStats]:
    """By set, in the order of its shards: the same sums whoever was ready first."""
    found = {}
    for target, group in groupby(zip(claims, pieces, strict=True), key=lambda each: each[0][0]):
        found[target] = reduce(lambda a, b: a.merge(b), [piece for _, piece in group])
    return found


def _named(cache: Cache, target: ArtifactSet, stats: CacheStats, features: str | None) -> SetStats:
    kept = _frames_of(target)
    count = _class_count(target, kept)
    names = _class_names(target) or (None if kept is None else _class_names(kept))
    origin = LABELS if kept is not None else PSEUDO_LABEL
    known = kept is not None or PSEUDO_LABEL in target.arrays
    return SetStats(
        source=target.source,
        teacher=target.name,
        fingerprint=target.fingerprint,
        classes=names if names is not None and len(names) == count else _numbers(count),
        stats=stats,
        feature_classes=origin if known and features in target.arrays else "",
        missing_shards=target.shards - len(target.committed()),
    )


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _array_of(layer: str) -> str:
    """A layer's array; "features/penultimate" may be given as "penultimate" too."""
    return layer if layer.startswith(f"{FEATURES}/") else f"{FEATURES}/{layer}"


def _check_files(features: str | None, out: Path | None, plot: Path | None) -> None:
    """Find out before the work that its result has a place."""
    if (features is None) != (out is None):
        raise ConfigError("--features LAYER and --out FILE belong together: one needs the other")
    if out is not None and out.suffix not in SUFFIXES:
        raise ConfigError(f"{out}: expected a file named {' or '.join(SUFFIXES)}")
    for path in (out, plot):
        if path is not None:
            from stillroom.stages.pictures.page import make_place

            make_place(path)


def _write_features(out: Path, layer: str, sets: Sequence[SetStats]) -> None:
    """Moments of every set, and the fingerprints that they came from; no pickle."""
    arrays: dict[str, NDArray[Any]] = {}
    about: dict[str, Any] = {"layer": layer, "sets": {}}
    for one in sets:
        moments, whole = one.stats.features, one.stats.features.total()
        name = f"{one.source}/{one.teacher}"
        count = len(one.classes)
        arrays[f"{name}/count"] = whole.count[0]
        arrays[f"{name}/mean"] = whole.mean[0]
        arrays[f"{name}/variance"] = whole.variance[0]
        arrays[f"{name}/class_count"] = moments.count[:count]
        arrays[f"{name}/class_mean"] = moments.mean[:count]
        arrays[f"{name}/class_variance"] = moments.variance[:count]
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
        from safetensors.numpy import save

        content = save(arrays, metadata={"about": json.dumps(about)})
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from error


def _draw(plot: Path, folder: Path | str, sets: Sequence[SetStats]) -> None:
    from stillroom.stages.pictures.stats_chart import StatsRow, stats_chart

    rows = [StatsRow(f"{one.teacher} on {one.source}", one.classes, one.stats) for one in sets]
    stats_chart(plot, rows, title=f"Statistics of {str(folder).rpartition('/')[2]}")
