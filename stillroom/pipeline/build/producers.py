"""What makes the arrays of a run's sets: its teachers and flow models, one in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.stages.cache.artifacts_of_teacher import TeacherArtifacts
from stillroom.stages.cache.cache_shard import frames_and_labels
from stillroom.stages.cache.flow_of_pairs import FlowOfPairs
from stillroom.stages.models.flow.flow_model import FlowModel, build_flow_model
from stillroom.stages.models.teacher import build_teacher
from stillroom.storage_specs.artifacts import FRAMES
from stillroom.storage_specs.layout import teacher_of

if TYPE_CHECKING:
    from stillroom.pipeline.identity import Model
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.stages.cache.cache_shard import Producer


class ModelLoader:
    """The models of a run, each built when its turn comes."""

    def __init__(self, opened: OpenedRun) -> None:
        self._opened = opened
        self._built: tuple[str, Model] | None = None

    def of(self, set_name: str) -> Model | None:
        """The model that a set is made by; None for the frames themselves."""
        if set_name == FRAMES:
            return None
        name = teacher_of(set_name)
        if self._built is None or self._built[0] != name:
            self._built = None  # let the old one go before the new one takes its memory
            self._built = (name, self._build(name))
        return self._built[1]

    def _build(self, name: str) -> Model:
        flows = self._opened.run.flows
        if name in flows:
            return build_flow_model(flows[name])
        return build_teacher(self._opened.teachers[name])


def producer_for(
    model: Model | None, opened: OpenedRun, source: str, artifacts: tuple[str, ...]
) -> Producer:
    """What makes a set's arrays.

    model: that the set is made by; None for the frames themselves
    artifacts: of a teacher
    """
    if model is None:
        return frames_and_labels
    if isinstance(model, FlowModel):
        return FlowOfPairs(model, opened.pairs[source].limit)
    return TeacherArtifacts(model, artifacts, opened.run.cache.threshold)
