"""Teachers of a run that say at every step what a cache would hold: `train.teacher`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.pipeline.build.model_loader import named_teacher
from stillroom.stages.models.first_look import look_at
from stillroom.stages.models.inference import device_of
from stillroom.stages.models.makers import output_of
from stillroom.stages.train.live_set import live_set
from stillroom.storage_specs.artifacts import artifact_of
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.models.teacher import Teacher
    from stillroom.stages.train.live_set import LiveSet
    from stillroom.stages.train.settings import TrainConfig


def build_live(
    run: RunConfig, settings: TrainConfig, keys: Iterable[str]
) -> tuple[dict[str, Teacher], dict[str, LiveSet]]:
    """Build the teachers that may run in the step, and look at what they give, as a build does.

    Args:
        keys: of what the run reads, as "fpn/logits"; a target of a source has no teacher

    Raises:
        ConfigError: one gives nothing that an artifact could be made from, or codes are read, and
            nothing of the cache is.
        WeightsError: weights are unreadable, not finite, or belong to another network.
    """
    teachers, sets = {}, {}
    reads: dict[str, set[str]] = {}
    for key in sorted(keys if settings.teacher else ()):
        name, slash, artifact = key.partition("/")
        if slash:
            reads.setdefault(name, set()).add(artifact)
    size, device = settings.view.crop or run.cache.canvas, device_of(settings.device, "train")
    for name, artifacts in reads.items():
        made, codes = (
            {each for each in artifacts if artifact_of(each).made_by == by}
            for by in ("teacher", "autoencoder")
        )
        if settings.teacher == "online":
            _demand_live(name, codes)
        if not made:
            continue
        teacher = teachers[name] = named_teacher(name, run.teacher(name).placed(device), size)
        grids = {output_of(artifact, teacher.strides) for artifact in made}
        look_at(f"teachers.{name}", teacher, size, grids, run.cache.batch)
        sets[name] = live_set(name, teacher, sorted(made), size, run.cache.threshold)
    return teachers, sets


def _demand_live(name: str, codes: set[str]) -> None:
    """Refuse what no teacher makes in the step, where there is no cache to fall back on."""
    if codes:
        raise ConfigError(
            f'train.teacher = "online": {", ".join(sorted(codes))} of {name} is made from a cache '
            "alone, by `stillroom cache adapt`; leave its terms out, or take it from a cache with "
            'train.teacher = "hybrid"'
        )
