"""The models that make the sets of a run: one in memory at a time, tried before the first shard."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stillroom.stages.cache.producers import FlowOfPairs, TeacherArtifacts, frames_and_targets
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.first_look import look_at
from stillroom.stages.models.flow.flow_model import FlowModel, build_flow_model
from stillroom.stages.models.makers import output_of
from stillroom.stages.models.teacher import Teacher
from stillroom.stages.models.teachers.ensemble_settings import EnsembleTeacherConfig
from stillroom.stages.torch_state import threads
from stillroom.storage_specs.artifacts import FRAMES
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stillroom.pipeline.build.plan import SetPlan
    from stillroom.pipeline.build.sets import RunSet
    from stillroom.pipeline.identity import Model
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.producers import Producer
    from stillroom.stages.models.teachers.families import TeacherConfig


class ModelLoader:
    """The models of a run, each built when its turn comes."""

    def __init__(self, opened: OpenedRun) -> None:
        self._opened = opened
        self._built: tuple[str, Model] | None = None
        self._looked: set[tuple[str, str]] = set()  # teachers, with artifacts of theirs

    def of(self, set_name: str) -> Model | None:
        """Return the model that a set is made by; None for the frames themselves."""
        if set_name == FRAMES:
            return None
        name = teacher_of(set_name)
        if self._built is None or self._built[0] != name:
            self._built = None  # let the old one go before the new one takes its memory
            self._built = (name, self._build(name))
        return self._built[1]

    def look_at(self, set_name: str, artifacts: Collection[str]) -> None:
        """Look at a teacher before it is run over every frame, in this process once an artifact.

        Raises:
            ConfigError: it has no such outputs, or some that cannot be cached, see `look_at`.
        """
        model, name, run = self.of(set_name), teacher_of(set_name), self._opened.run
        new = {(name, artifact) for artifact in artifacts} - self._looked
        if isinstance(model, Teacher) and new:
            grids = {output_of(artifact, model.strides) for artifact in artifacts}
            look_at(f"teachers.{name}", model, run.cache.canvas, grids, run.cache.batch)
        self._looked |= new

    def _build(self, name: str) -> Model:
        if name not in self._opened.teachers:
            return build_flow_model(self._opened.run.flows[name])
        return named_teacher(name, self._opened.teachers[name], self._opened.run.cache.canvas)


def named_teacher(name: str, config: TeacherConfig, size: tuple[int, int]) -> Teacher:
    """Build a teacher for frames of a size; what is wrong with it names its section."""
    try:
        return build_teacher(config, size)
    except ConfigError as error:
        reason = str(error).removeprefix("teacher: ")
        raise ConfigError(f"teachers.{name}: {reason}") from error


def producer_for(opened: OpenedRun, one: RunSet, model: Model | None) -> Producer:
    """Return what makes the arrays of a set.

    Args:
        model: that the set is made by; None for the frames themselves
    """
    if model is None:
        return frames_and_targets
    if isinstance(model, FlowModel):
        return FlowOfPairs(model, opened.pairs[one.source].limit)
    return TeacherArtifacts(model, one.artifacts, opened.run.cache.threshold)


def check_before_build(opened: OpenedRun, plans: Sequence[SetPlan], *, here: bool) -> ModelLoader:
    """Build every model that has work to do, once, and look at what it gives.

    Args:
        here: this process computes the shards. Else workers do, whose devices it may lack: models
            are then built on the CPU, and a user's own function for a GPU is left to the workers,
            which look at every teacher themselves

    Returns:
        the models; the one whose turn comes first is still in memory

    Raises:
        ConfigError: no such network, device or layer, outputs that cannot be cached, or
            cache.reuse is no cache.
        WeightsError: weights are unreadable, not finite, or belong to another network.
    """
    check_reuse(opened.run, plans)
    wanted: dict[str, list[str]] = {}
    for plan in plans:
        if plan.missing and plan.set_name != FRAMES:
            wanted.setdefault(teacher_of(plan.set_name), []).extend(plan.artifacts)
    models = ModelLoader(opened if here else _on_the_cpu(opened))
    with threads(opened.run.cache.threads):
        for name in reversed(wanted):
            if here or not _needs_a_workers_gpu(opened, name):
                models.look_at(name, wanted[name])
    return models


def check_reuse(run: RunConfig, plans: Sequence[SetPlan]) -> None:
    """Refuse a cache.reuse that is not there, where a teacher has work to do.

    Raises:
        ConfigError: nothing has been cached there.
    """
    taught = any(plan.missing and teacher_of(plan.set_name) in run.teachers for plan in plans)
    if run.cache.reuse is None or not taught:
        return
    try:
        Cache.open(run.cache.reuse)
    except CacheIncomplete as error:
        raise ConfigError(
            f"cache.reuse = {run.cache.reuse}: there is no cache here; name the folder of an older "
            "cache, or leave the key out"
        ) from error


def _needs_a_workers_gpu(opened: OpenedRun, name: str) -> bool:
    teacher = opened.teachers.get(name)
    own = teacher.built_from() if isinstance(teacher, EnsembleTeacherConfig) else {name: teacher}
    return any(
        one is not None and one.kind == "python" and one.device != "cpu" for one in own.values()
    )


def _on_the_cpu(opened: OpenedRun) -> OpenedRun:
    """The same models, on a device that every machine has."""
    cpu = {"device": "cpu"}
    flows = {name: each.model_copy(update=cpu) for name, each in opened.run.flows.items()}
    return replace(
        opened,
        run=opened.run.model_copy(update={"flows": flows}),
        teachers={name: each.model_copy(update=cpu) for name, each in opened.teachers.items()},
    )
