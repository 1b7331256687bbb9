"""What would stop a build at its last shards, found before its first: models, and cache.reuse."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stillroom.pipeline.build.producers import ModelLoader
from stillroom.stages.cache.artifacts_of_teacher import output_of
from stillroom.stages.models.teacher import Teacher
from stillroom.stages.torch_state import threads
from stillroom.storage_specs.artifacts import FRAMES
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError
from stillroom.storage_specs.layout import teacher_of
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillroom.pipeline.build.plan import SetPlan
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig


def check_before_build(opened: OpenedRun, plans: Sequence[SetPlan], *, here: bool) -> ModelLoader:
    """Build every model that has work to do, once, and look at what it is asked for.

    here: this process computes the shards. Else workers do, whose devices it may lack: models are
        then built on the CPU, and a user's own function for a GPU is left to the workers
    returns: the models; that whose turn comes first is in memory still, the others are not

    Raises:
        ConfigError: no such network, device or layer, or cache.reuse is no cache.
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
                _check_outputs(models, name, wanted[name])
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


def _check_outputs(models: ModelLoader, name: str, artifacts: list[str]) -> None:
    model = models.of(name)
    if not isinstance(model, Teacher):
        return
    for artifact in artifacts:
        output_of(artifact, model.strides)


def _needs_a_workers_gpu(opened: OpenedRun, name: str) -> bool:
    teacher = opened.teachers.get(name)
    return teacher is not None and teacher.kind == "python" and teacher.device != "cpu"


def _on_the_cpu(opened: OpenedRun) -> OpenedRun:
    """The same models, on a device that every machine has."""
    cpu = {"device": "cpu"}
    flows = {name: each.model_copy(update=cpu) for name, each in opened.run.flows.items()}
    return replace(
        opened,
        run=opened.run.model_copy(update={"flows": flows}),
        teachers={name: each.model_copy(update=cpu) for name, each in opened.teachers.items()},
    )
