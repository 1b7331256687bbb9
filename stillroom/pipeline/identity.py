"""The identity of an artifact set: everything that its bytes depend on, as JSON.

Its sha256 is the set's fingerprint. Nothing here reads a cache or opens a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.artifacts import FRAMES, artifact_of
from stillroom.storage_specs.fingerprint import ANY
from stillroom.storage_specs.layout import teacher_of

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.stages.models.flow.flow_model import FlowModel, FlowModelConfig
    from stillroom.stages.models.teacher import Teacher
    from stillroom.stages.models.teachers.families import TeacherConfig

    Model = Teacher | FlowModel  # what a set is made by

TRANSCODED = "transcoded_from"  # in the identity of a set that was encoded twice, with loss


def set_identity(
    opened: OpenedRun,
    source: str,
    set_name: str,
    artifacts: tuple[str, ...],
    model: Model | None = None,
) -> dict[str, Any]:
    """Return the identity that a builder demands of a set.

    Args:
        artifacts: those of the set
        model: where the teacher, or flow model, has been built, its own account of the device is
            taken; else the run file's, and "auto" there agrees with any device of the cache
    """
    run, preset = opened.run, opened.preset
    height, width = run.cache.canvas
    identity: dict[str, Any] = {
        "source": _source(opened, source),
        "canvas": {"height": height, "width": width},
        "shard_frames": preset.shard_frames,
        "artifacts": {artifact: preset.storage(artifact).to_dict() for artifact in artifacts},
    }
    if set_name in run.flows:
        identity["flow_model"] = _model(run.flows[set_name], model)
        identity["pairs"] = _pairs(opened, source)
    elif set_name != FRAMES:
        identity["teacher"] = _model(opened.teachers[teacher_of(set_name)], model)
        for artifact in artifacts:
            if keys := artifact_of(artifact).settings:
                identity[artifact] = {key: getattr(run.cache, key) for key in keys}
    return identity


def readable_identity(
    opened: OpenedRun, source: str, set_name: str, artifacts: tuple[str, ...]
) -> dict[str, Any]:
    """Return the identity that a reader demands: as the set is stored now, encoded once or twice.

    A builder demands `set_identity`: to a set that was encoded twice it must add nothing.
    """
    return {**set_identity(opened, source, set_name, artifacts), TRANSCODED: ANY}


def _source(opened: OpenedRun, name: str) -> dict[str, Any]:
    source = opened.sources.get(name)
    if source is None:
        return opened.absent[name]
    return {**source.identity(), "frames": len(source)}


def _pairs(opened: OpenedRun, source: str) -> dict[str, Any]:
    """What decides which pairs of a source there are, and what came of it."""
    config, pairs = opened.run.cache.pairs, opened.pairs.get(source)
    # A source may read the order of its frames from files that are no frames of it.
    plan = ANY if pairs is None else pairs.plan.sha256
    return {**({} if config is None else config.model_dump(mode="json")), "sha256": plan}


def _model(config: TeacherConfig | FlowModelConfig, model: Model | None) -> dict[str, Any]:
    """What decides a model's output; of one that is not built, a device "auto" agrees with any."""
    if model is not None:
        return model.identity()
    described = config.identity()
    return {**described, "device": ANY} if described["device"] == "auto" else described
