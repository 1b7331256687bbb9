"""The sources of a run file, those of views with the sections of the frames that they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.pipeline.run_file.faults import hint
from stillroom.stages.sources.views import ViewsConfig
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.stages.sources.open import SourceConfig


def with_frames(sources: Mapping[str, SourceConfig]) -> dict[str, SourceConfig]:
    """Return the sources, each ready to be opened.

    Raises:
        ConfigError: views are of no source, or of views.
    """
    return {name: _with_frames(sources, name) for name in sources}


def _with_frames(sources: Mapping[str, SourceConfig], name: str) -> SourceConfig:
    section = sources[name]
    if not isinstance(section, ViewsConfig):
        return section
    if section.of not in sources:
        near = hint(section.of, tuple(sources))
        raise ConfigError(f"{name}.of: no such section, sources.{section.of}{near}")
    frames = sources[section.of]
    if isinstance(frames, ViewsConfig):
        raise ConfigError(f"{name}.of: {section.of!r} is of views; name the source of the frames")
    return section.shown(frames)
