"""The teachers of a run file, each with its classes and, if it is made of others, with these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.pipeline.run_file.faults import hint
from stillroom.stages.models.class_mapping import in_order
from stillroom.stages.models.teachers.ensemble_settings import EnsembleTeacherConfig
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.stages.models.teachers.families import TeacherConfig


def check_members(teachers: dict[str, TeacherConfig]) -> dict[str, TeacherConfig]:
    """Return the teachers; refuse ensembles of what has no network of its own (ConfigError)."""
    ensembles = {k: one for k, one in teachers.items() if isinstance(one, EnsembleTeacherConfig)}
    for name, one in ensembles.items():
        for member in one.members:
            if member not in teachers:
                near = hint(member, tuple(teachers))
                raise ConfigError(f"{name}.members: no such section, teachers.{member}{near}")
            if member in ensembles:
                raise ConfigError(
                    f"{name}.members: {member!r} is an ensemble; name its members instead"
                )
    return teachers


def with_classes(
    teachers: Mapping[str, TeacherConfig],
    name: str,
    classes: tuple[str, ...] | None,
    *,
    logits: bool,
) -> TeacherConfig:
    """Return a teacher; see `RunConfig.teacher`.

    Args:
        classes: of the run's first labelled source
        logits: whether something is cached that is made from logits
    """
    teacher = teachers[name]
    if isinstance(teacher, EnsembleTeacherConfig):
        members = {
            member: with_classes(teachers, member, classes, logits=logits)
            for member in teacher.members
        }
        try:
            return teacher.of(members)
        except ConfigError as error:
            raise ConfigError(f"teachers.{name}.{error}") from error
    if teacher.mapping is not None and classes is not None:
        ordered = in_order(teacher.mapping, classes, f"teachers.{name}.mapping")
        return teacher.model_copy(update={"mapping": ordered})
    if teacher.classes is not None:
        return teacher
    if classes is not None:
        return teacher.model_copy(update={"classes": classes})
    if teacher.may_lack_classes and not logits:
        return teacher
    raise ConfigError(
        f"teachers.{name}.classes: not given, and no source of this run is labelled; "
        "state the class names, or their number"
    )
