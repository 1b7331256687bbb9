"""A few frames of a cached set, spread evenly over those that are usable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from stillroom.pipeline.identity import readable_identity
from stillroom.stages.class_lists import agree, numbered
from stillroom.stages.sources.canvas import CanvasFrame, to_canvas
from stillroom.storage_specs.artifacts import FRAMES, LABELS
from stillroom.storage_specs.errors import CacheIncomplete, CacheMismatch
from stillroom.storage_specs.store import BUILD, Cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from stillroom.pipeline.build.sets import RunSet
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.stages.models.teacher import Teacher
    from stillroom.storage_specs.artifact_set import ArtifactSet

Item = TypeVar("Item")


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` items, spread evenly from the first to the last."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places.tolist()]


@dataclass(frozen=True)
class CacheSample:
    """Some frames of a cached set.

    Attributes:
        kept: the set of the frames themselves, where the cache has it
        rows: of the manifest of `cached`, by index
    """

    opened: OpenedRun
    cached: ArtifactSet
    kept: ArtifactSet | None
    indices: list[int]
    rows: dict[int, dict[str, Any]]

    def frame(self, index: int) -> CanvasFrame:
        """Return a frame as the teacher read it: from the cache, or from its source."""
        row = self.rows[index]
        if self.kept is not None:
            valid = (row["valid_height"], row["valid_width"])
            return CanvasFrame(row["frame_id"], self.kept.read(FRAMES, index), None, valid)
        source = self.cached.source
        frame = to_canvas(self.opened.sources[source].load(index), self.opened.run.cache.canvas)
        if row["crc32c"] not in (None, frame.crc32c()):
            raise CacheMismatch(
                f"{source}: frame {row['frame_id']} has other pixels than when it was cached; "
                "build into another cache.path"
            )
        return frame

    def label(self, index: int, teacher: Teacher) -> NDArray[np.uint8] | None:
        """Return a frame's label, if its classes are the teacher's."""
        if self.kept is None or LABELS not in self.kept.arrays:
            return None
        names = self.opened.run.classes_of(self.cached.source)
        if names is not None and not agree(teacher.classes or numbered(teacher.num_classes), names):
            return None
        label: NDArray[np.uint8] = self.kept.read(LABELS, index)
        return label


def sample_set(opened: OpenedRun, cache: Cache, one: RunSet, frames: int) -> CacheSample:
    """Check a set against the run, and choose frames of it, spread evenly.

    Raises:
        CacheMismatch: the set was built from something else.
        CacheIncomplete: none of its frames can be read.
    """
    source, kept = one.source, None
    cached = cache.artifact_set(source, one.name)
    cached.require(readable_identity(opened, source, one.name, one.artifacts))
    usable = cached.usable()
    if (source, FRAMES) in cache.sets():
        kept = cache.artifact_set(source, FRAMES)
        usable = np.intersect1d(usable, kept.usable())
    elif source in opened.absent:
        raise CacheIncomplete(
            f"{source}: its files are not here, and the cache keeps no frames of it"
        )
    if not len(usable):
        raise CacheIncomplete(f"{source}/{one.name}: no frame is committed; {BUILD}")
    rows = {row["index"]: row for row in cached.rows().to_pylist()}
    return CacheSample(opened, cached, kept, evenly(usable.tolist(), frames), rows)
