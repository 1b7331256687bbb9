"""How a new artifact set is defined: the shape and the storage of each of its arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.pipeline.identity import set_identity
from stillroom.stages.cache.artifacts_of_teacher import TeacherArtifacts
from stillroom.stages.models.flow.flow_model import FlowModel
from stillroom.storage_specs.artifacts import FLOW, FRAMES, LABELS, artifact_of
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.tiles import automatic_tile, fitted_tile

if TYPE_CHECKING:
    from stillroom.pipeline.identity import Model
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.store import Cache


def define_set(
    opened: OpenedRun,
    cache: Cache,
    source: str,
    set_name: str,
    artifacts: tuple[str, ...],
    model: Model | None,
) -> ArtifactSet:
    """Return the set on disk, made if it is not there yet.

    artifacts: those of the set
    model: that makes it; None for the frames themselves

    Raises:
        CacheMismatch: it is there, and was built from something else.
    """
    return cache.define(
        source,
        set_name,
        set_identity(opened, source, set_name, artifacts, model),
        count=len(opened.items(source, set_name)),
        shard_frames=opened.preset.shard_frames,
        arrays=_arrays(opened, source, artifacts, model),
    )


def tile_of(run: RunConfig, spec: ArraySpec) -> tuple[int, int] | None:
    """Return the tiles that the run cuts a frame of an artifact into, or None."""
    wanted, axes = run.cache.tile, spec.kind.axes
    if wanted == "none" or not spec.codec.cell_by_cell:
        return None
    if wanted != "auto":
        return fitted_tile(wanted, spec.shape, axes)
    shape = spec.codec.stored_shape(spec.shape)
    return automatic_tile(shape, axes, np.dtype(spec.codec.stored).itemsize)


def _arrays(
    opened: OpenedRun, source: str, artifacts: tuple[str, ...], model: Model | None
) -> list[ArraySpec]:
    shapes, classes = _shapes(opened.run, artifacts, model), _classes(opened, source, model)
    arrays = []
    for artifact in artifacts:
        shape, stride = shapes[artifact]
        storage = opened.preset.storage(artifact)
        attributes: dict[str, Any] = {"stride": stride}
        if classes is not None and artifact_of(artifact).has_classes:
            attributes["classes"] = list(classes)
        spec = ArraySpec(artifact, shape, storage.codec, storage.compressor, attributes)
        arrays.append(replace(spec, tile=tile_of(opened.run, spec)))
    return arrays


def _classes(opened: OpenedRun, source: str, model: Model | None) -> tuple[str, ...] | None:
    if model is None:
        return opened.sources[source].classes
    return None if isinstance(model, FlowModel) else model.classes


def _shapes(
    run: RunConfig, artifacts: tuple[str, ...], model: Model | None
) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape of each artifact of a frame, or of a pair, and its stride."""
    canvas = height, width = run.cache.canvas
    if model is None:
        return {FRAMES: ((height, width, 3), 1), LABELS: (canvas, 1)}
    if isinstance(model, FlowModel):
        return {FLOW: ((2, height, width), 1)}
    return TeacherArtifacts(model, artifacts, run.cache.threshold).shapes(canvas)
