"""What `cache stats` counts in a shard, and the sums of a whole set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.artifacts import (
    FRAMES,
    LABELS,
    LOGITS,
    PIXEL_CONFIDENCE,
    PSEUDO_LABEL,
)
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.layout import teacher_of

if TYPE_CHECKING:
    from stillroom.stages.evaluate.cache_stats import CacheStats
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.store import Cache


@dataclass(frozen=True)
class SetStats:
    """One teacher on one source, or the frames of it.

    Attributes:
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
            **self.stats.to_dict(self.classes),
        }


def labels_of(cache: Cache, target: ArtifactSet) -> ArtifactSet | None:
    """Return the set with the labels of a set's frames, if their classes are the teacher's."""
    if (target.source, FRAMES) not in cache.sets():
        return None
    kept = cache.artifact_set(target.source, FRAMES)
    if LABELS not in kept.arrays:
        return None
    names, others = _class_names(kept), _class_names(target)
    return kept if names is None or others in (None, names) else None


def confidence_of(cache: Cache, target: ArtifactSet) -> ArtifactSet | None:
    """Return the set with the confidence by pixel, perhaps an extension, of what logits made."""
    if not any(spec.kind.output == LOGITS for spec in target.arrays.values()):
        return None
    sets = cache.teacher_sets(target.source, teacher_of(target.name))
    return next((one for one in sets if PIXEL_CONFIDENCE in one.arrays), None)


@dataclass(frozen=True)
class StatsCounter:
    """Counts shards; a task of Ray gets it by pickle.

    Attributes:
        features: the array whose moments are taken
        labels: by source and set, the set with the labels of its frames
        confidences: likewise, that with its teacher's confidence by pixel
    """

    features: str | None
    labels: dict[tuple[str, str], ArtifactSet | None]
    confidences: dict[tuple[str, str], ArtifactSet | None]

    def __call__(self, target: ArtifactSet, shard: int) -> CacheStats:
        """Count the usable frames of a shard."""
        from stillroom.stages.evaluate.cache_stats import CacheStats, stats_of_frame

        labels = self.labels[target.source, target.name]
        confidences = self.confidences[target.source, target.name]
        classes = len(_classes(target, labels))
        held = self.features in target.arrays
        channels = target.arrays[self.features].shape[0] if held and self.features else 0
        labelled, sure = _usable(labels), _usable(confidences)
        found = CacheStats.empty(classes, channels)
        for row in target.part(shard).rows:
            if row.status == "ok":
                with_label = labels if row.index in labelled else None
                with_confidence = confidences if row.index in sure else None
                valid = (row.valid_height, row.valid_width)
                frame = self._frame(target, with_label, with_confidence, row.index, valid)
                found = found.merge(stats_of_frame(frame, classes))
        return found

    def _frame(
        self,
        target: ArtifactSet,
        labels: ArtifactSet | None,
        confidences: ArtifactSet | None,
        index: int,
        valid: tuple[int, int],
    ) -> Any:
        from stillroom.stages.evaluate.cache_stats import StatsFrame

        def read(of: ArtifactSet | None, artifact: str | None) -> Any:
            return None if of is None or artifact is None else of.read(artifact, index)

        def stride(artifact: str | None) -> int:
            return int(target.arrays[artifact].attributes.get("stride", 1)) if artifact else 1

        scores, confidence = _held(target, "scores"), _held(target, "confidence")
        features = self.features if self.features in target.arrays else None
        ranges = [name for name, spec in target.arrays.items() if spec.kind.statistics == "range"]
        return StatsFrame(
            label=read(labels, LABELS),
            pseudo_label=read(target, _held(target, "classes")),
            logits=read(target, scores),
            confidence=None if scores else read(target, confidence),
            pixel_confidence=read(confidences, PIXEL_CONFIDENCE),
            features=read(target, features),
            stride=stride(scores or confidence),
            features_stride=stride(features),
            size=_canvas(target, labels),
            valid=valid,
            ranges={name: (read(target, name), stride(name)) for name in ranges},
        )

    def result(self, target: ArtifactSet, stats: CacheStats) -> SetStats:
        """Name what was counted in all shards of a set."""
        labels = self.labels[target.source, target.name]
        origin = LABELS if labels is not None else PSEUDO_LABEL
        known = labels is not None or PSEUDO_LABEL in target.arrays
        return SetStats(
            source=target.source,
            teacher=target.name,
            fingerprint=target.fingerprint,
            classes=_classes(target, labels),
            stats=stats,
            feature_classes=origin if known and self.features in target.arrays else "",
            missing_shards=target.shards - len(target.committed()),
        )


def _usable(of: ArtifactSet | None) -> set[int]:
    return set() if of is None else set(of.usable().tolist())


def _held(of: ArtifactSet, statistics: str) -> str | None:
    """Return the first array of a set of which such statistics are taken, but for labels."""
    kinds = ((name, spec.kind) for name, spec in of.arrays.items() if name != LABELS)
    names = (name for name, kind in kinds if kind.statistics == statistics)
    return next(names, None)


def _class_names(target: ArtifactSet) -> tuple[str, ...] | None:
    for spec in target.arrays.values():
        if "classes" in spec.attributes:
            return tuple(map(str, spec.attributes["classes"]))
    return None


def _classes(target: ArtifactSet, labels: ArtifactSet | None) -> tuple[str, ...]:
    """Return the names of a set's classes, or their numbers where they have none."""
    names = _class_names(target) or (None if labels is None else _class_names(labels))
    scores = _held(target, "scores")
    count = len(names or range(255)) if scores is None else target.arrays[scores].shape[0]
    return names if names is not None and len(names) == count else tuple(map(str, range(count)))


def _canvas(target: ArtifactSet, labels: ArtifactSet | None) -> tuple[int, int]:
    canvas = target.identity.get("canvas")
    if canvas is not None:
        return int(canvas["height"]), int(canvas["width"])
    for of, artifact in ((labels, LABELS), (target, PSEUDO_LABEL)):
        if of is not None and artifact in of.arrays:
            height, width = of.arrays[artifact].shape
            return height, width
    raise ConfigError(f"{target!r}: its identity does not tell the canvas")
