"""The artifact sets of a run: which there are in its cache or are to be, how one is defined."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.pipeline.identity import set_identity
from stillroom.stages.cache.producers import TeacherArtifacts
from stillroom.stages.models.flow.flow_model import FlowModel
from stillroom.storage_specs.artifacts import AXIS_LENGTHS, BOXES, FLOW, FRAMES, artifact_of
from stillroom.storage_specs.errors import CacheIncomplete
from stillroom.storage_specs.layout import ArraySpec, extension_name, teacher_of
from stillroom.storage_specs.shards.tiles import automatic_tile, fitted_tile
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stillroom.pipeline.identity import Model
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.storage_specs.artifact_set import ArtifactSet


@dataclass(frozen=True)
class RunSet:
    """An artifact set of a run.

    Attributes:
        artifacts: the run's that it holds or is to hold
        stored: the set in the cache; None where there is none yet
    """

    source: str
    name: str
    artifacts: tuple[str, ...]
    stored: ArtifactSet | None = None


def sets_of_run(
    opened: OpenedRun, cache: Cache | None, names: Iterable[tuple[str, str]]
) -> list[RunSet]:
    """Find the sets for the artifacts of each (source, teacher); reads the cache, writes nothing.

    Of a teacher first its own set, then its extension sets that are there, then, for artifacts
    that none of these has, the extension set to be.

    Args:
        names: of `OpenedRun.names`; the frames and flow models have one set each
    """
    known = () if cache is None else cache.sets()
    found: list[RunSet] = []
    for source, name in names:
        stored = [
            cache.artifact_set(source, set_name)
            for of, set_name in known
            if cache is not None and of == source and teacher_of(set_name) == name
        ]
        found += _sets_of(opened, source, name, stored)
    return found


def _sets_of(
    opened: OpenedRun, source: str, name: str, stored: list[ArtifactSet]
) -> Iterable[RunSet]:
    wanted = opened.artifacts(source, name)
    if name == FRAMES:
        return [RunSet(source, name, wanted, next(iter(stored), None))]
    found = []
    for one in stored:
        held = tuple(artifact for artifact in wanted if artifact in one.arrays)
        if held or one.name == name:
            found.append(RunSet(source, one.name, held, one))
            wanted = tuple(artifact for artifact in wanted if artifact not in held)
    if all(one.name != name for one in found):  # withdrawn by a repair, or never there
        return [*([RunSet(source, name, wanted)] if wanted else []), *found]
    if wanted:
        # By the run file alone, "auto" included: the same name in every worker.
        identity = set_identity(opened, source, name, wanted)
        found.append(RunSet(source, extension_name(name, identity), wanted))
    return found


def stored_set(run: RunConfig, source: str, set_name: str) -> ArtifactSet | None:
    """Open a set as it is now; None where nothing of it has been built yet."""
    try:
        return Cache.open(run.cache.path).artifact_set(source, set_name)
    except CacheIncomplete:
        return None


def define_set(
    opened: OpenedRun, cache: Cache, one: RunSet, model: Model | None, count: int | None = None
) -> ArtifactSet:
    """Return the set on disk, made if it is not there yet.

    Args:
        model: that makes it; None for the frames themselves
        count: of its rows; as many as there are if left out

    Raises:
        CacheMismatch: it is there, and was built from something else.
    """
    return cache.define(
        one.source,
        one.name,
        set_identity(opened, one.source, one.name, one.artifacts, model),
        count=len(opened.inputs(one.source, one.name)) if count is None else count,
        shard_frames=opened.preset.shard_frames,
        arrays=_arrays(opened, one, model),
    )


def tile_of(run: RunConfig, spec: ArraySpec) -> tuple[int, int] | None:
    """Return the tiles that the run cuts a frame of an artifact into, or None."""
    wanted, axes = run.cache.tile, spec.kind.axes
    if wanted == "none" or not (spec.kind.has_map and spec.codec.tileable):
        return None
    if wanted != "auto":
        return fitted_tile(wanted, spec.shape, axes)
    shape = spec.codec.stored_shape(spec.shape)
    return automatic_tile(shape, axes, np.dtype(spec.codec.stored).itemsize)


def _arrays(opened: OpenedRun, one: RunSet, model: Model | None) -> list[ArraySpec]:
    shapes = _shapes(opened.run, one, model)
    arrays = []
    for artifact in one.artifacts:
        shape, stride = shapes[artifact]
        storage = opened.preset.storage(artifact)
        attributes: dict[str, Any] = {"stride": stride}
        classes = _classes(opened, one.source, artifact, model)
        if classes is not None and artifact_of(artifact).has_classes:
            attributes["classes"] = list(classes)
        spec = ArraySpec(artifact, shape, storage.codec, storage.compressor, attributes)
        arrays.append(replace(spec, tile=tile_of(opened.run, spec)))
    return arrays


def _classes(
    opened: OpenedRun, source: str, artifact: str, model: Model | None
) -> tuple[str, ...] | None:
    if artifact == BOXES:
        return opened.run.sources[source].box_classes()
    if model is None:
        return opened.sources[source].classes
    return None if isinstance(model, FlowModel) else model.classes


def _shapes(
    run: RunConfig, one: RunSet, model: Model | None
) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape of each artifact of a frame, or of a pair, and its stride."""
    canvas = height, width = run.cache.canvas
    if model is None:
        lengths = {
            **AXIS_LENGTHS,
            "y": height,
            "x": width,
            "box": run.sources[one.source].most_boxes(),
        }
        return {
            artifact: (tuple(lengths[axis] for axis in artifact_of(artifact).axes), 1)
            for artifact in one.artifacts
        }
    if isinstance(model, FlowModel):
        return {FLOW: ((2, height, width), 1)}
    return TeacherArtifacts(model, one.artifacts, run.cache.threshold).shapes(canvas)
