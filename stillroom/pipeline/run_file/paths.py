"""The paths of a run: with the home folder in them, and as seen from any working folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.run_file.sections import RunConfig
from stillroom.stages.models.teachers.hf import HfTeacherConfig
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.stages.models.teachers.families import TeacherConfig


def with_absolute_paths(run: RunConfig) -> RunConfig:
    """The same run, for a process with another working folder."""
    absolute = _with_paths(run, Path.absolute)
    teachers = {name: _with_absolute_folder(each) for name, each in absolute.teachers.items()}
    return absolute.model_copy(update={"teachers": teachers})


def _with_absolute_folder(teacher: TeacherConfig) -> TeacherConfig:
    """The same teacher; what it names by a string is a path only where there is such a folder."""
    if not isinstance(teacher, HfTeacherConfig) or not teacher.folder.is_dir():
        return teacher
    return teacher.model_copy(update={"path": str(teacher.folder.absolute())})


def with_home_paths(run: RunConfig) -> RunConfig:
    """The same run with `~` in its paths replaced by the home folder.

    Raises:
        ConfigError: a path begins with the name of a user that there is not.
    """
    try:
        return _with_paths(run, Path.expanduser)
    except RuntimeError as error:
        raise ConfigError(f"a path begins with ~: {error}") from error


def _with_paths(run: RunConfig, change: Callable[[Path], Path]) -> RunConfig:
    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(changed(each) for each in value)
        return change(value) if isinstance(value, Path) else value

    return RunConfig.model_validate(changed(run.model_dump(exclude_unset=True)))
