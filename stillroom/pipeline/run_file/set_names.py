"""Names of sources, teachers and flow models: those of their sets in the cache."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import AfterValidator

from stillroom.storage_specs.artifacts import FRAMES
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.layout import check_names, teacher_of

EXACT = "exact"
"""What stands for the flow that a source knows of itself, where a flow model is named."""


def _source_name(name: str) -> str:
    check_names(name, FRAMES)
    return name


def _set_name(name: str, what: str) -> str:
    """Check the name of a set that the cache is to have; `what`: of such a model."""
    if name == EXACT and what == "flow model":
        raise ConfigError(f"flow model name {name!r} is reserved for a source's own flow")
    if name == FRAMES:
        raise ConfigError(f"{what} name {name!r} is reserved; choose another")
    if teacher_of(name) != name:
        raise ConfigError(f"{what} name {name!r}: what follows a '.' is the cache's to choose")
    try:
        check_names("source", name)
    except ConfigError as error:
        raise ConfigError(str(error).replace("set name", f"{what} name")) from error
    return name


SourceName = Annotated[str, AfterValidator(_source_name)]
TeacherName = Annotated[str, AfterValidator(partial(_set_name, what="teacher"))]
FlowName = Annotated[str, AfterValidator(partial(_set_name, what="flow model"))]
