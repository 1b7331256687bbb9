"""A run with its sources opened: the frames, and the pairs of them, that its cache is made from."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillroom.stages.cache.inputs import FrameInputs, PairInputs
from stillroom.stages.sources.open import SourceConfig, open_source
from stillroom.stages.sources.pairs import plan_pairs
from stillroom.storage_specs.artifacts import FLOW, FRAMES
from stillroom.storage_specs.codecs.quantised import FLOW_MAX
from stillroom.storage_specs.errors import ConfigError, StillroomError
from stillroom.storage_specs.fingerprint import ANY
from stillroom.storage_specs.presets import load_preset
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.inputs import Inputs
    from stillroom.stages.models.teachers.families import TeacherConfig
    from stillroom.stages.sources.source import Source
    from stillroom.storage_specs.presets import Preset


@dataclass(frozen=True)
class OpenedRun:
    """A run, and what the sets of its cache are made from.

    Attributes:
        teachers: by name, each with its classes
        pairs: by source, the pairs of its frames whose flow the run caches
        absent: by name, the sources whose files are not here, with what is known of their identity
    """

    run: RunConfig
    sources: dict[str, Source]
    teachers: dict[str, TeacherConfig]
    preset: Preset
    pairs: dict[str, PairInputs] = field(default_factory=dict)
    absent: dict[str, dict[str, Any]] = field(default_factory=dict)

    def names(self) -> list[tuple[str, str]]:
        """(source, frames, teacher or flow model) for all that the run caches, in build order."""
        sets = ([FRAMES] if self.run.cache.frames else []) + [*self.run.cached_teachers()]
        names = [(source, name) for name in sets for source in self.run.cached_sources()]
        return names + [(source, name) for name in self.run.cached_flows() for source in self.pairs]

    def inputs(self, source: str, name: str) -> Inputs:
        """What the rows of a set are made from."""
        if name in self.run.flows:
            return self.pairs[source]
        return FrameInputs(self.sources[source], self.run.cache.canvas)

    def artifacts(self, source: str, name: str) -> tuple[str, ...]:
        """Names of the arrays that the run keeps of frames, of a teacher or of a flow model."""
        if name in self.run.flows:
            return (FLOW,)
        if name != FRAMES:
            return self.run.cache.artifacts
        return (FRAMES, *self.run.targets_of(source))


def open_run(run: RunConfig, *, must_exist: bool = True) -> OpenedRun:
    """Open the sources that the run caches and settle what their sets are made from.

    Args:
        must_exist: False lets sources be absent: those none of whose folders exist here. Nothing
            can then be cached of them, but their sets in a cache can be read

    Raises:
        ConfigError: a source cannot be opened, or a teacher's classes cannot be known.
    """
    run = _with_draws(run)
    sources, absent = {}, {}
    for name in run.cached_sources():
        config = run.sources[name]
        if not must_exist and _is_absent(config):
            absent[name] = {**config.stated(), "frames": ANY, "listing_sha256": ANY}
        else:
            sources[name] = open_source(config)
    preset = load_preset(run.cache.preset, run.cache.codecs, run.cache.shard_frames)
    return OpenedRun(
        run=run,
        sources=sources,
        teachers={name: run.teacher(name) for name in run.teachers},
        preset=preset,
        pairs=_pairs(run, sources, preset),
        absent=absent,
    )


def _with_draws(run: RunConfig) -> RunConfig:
    """Settle how many neighbours a frame gets where the run leaves that open.

    Those of the cache, where it has pairs: they may have been planned when the default was 1.
    """
    pairs = run.cache.pairs
    if pairs is None or pairs.draws is not None:
        return run
    known = None
    with suppress(StillroomError):  # there is none yet, or what is wrong with it is told later
        cache = Cache.open(run.cache.path)
        flows = [cache.artifact_set(*one) for one in cache.sets() if one[1] in run.flows]
        known = next((one.identity["pairs"]["draws"] for one in flows), None)
    settled = pairs.model_copy(update={"draws": known or len(pairs.offsets)})
    return run.model_copy(update={"cache": run.cache.model_copy(update={"pairs": settled})})


def _is_absent(config: SourceConfig) -> bool:
    """Whether none of its folders exists; anything short of that is a source that is broken."""
    folders = config.folders()
    return bool(folders) and not any(_exists(folder) for folder in folders)


def _exists(folder: Path) -> bool:
    try:
        os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return os.path.islink(folder)  # a link that leads nowhere is broken
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be read: {error.strerror}; give this user permission"
        ) from error
    return True


def _pairs(run: RunConfig, sources: Mapping[str, Source], preset: Preset) -> dict[str, PairInputs]:
    """The pairs of every source that has some, by the run's plan.

    Raises:
        ConfigError: no source has any, or two frames of a clip have one time.
    """
    if run.cache.pairs is None or not sources:
        return {}
    limit = FLOW_MAX if preset.storage(FLOW).codec.name == "flow" else math.inf
    plans = {name: plan_pairs(source, run.cache.pairs) for name, source in sources.items()}
    found = {
        name: PairInputs(sources[name], run.cache.canvas, plan, limit)
        for name, plan in plans.items()
        if len(plan)
    }
    if not found:
        lonely = sum(plan.lonely for plan in plans.values())
        raise ConfigError(
            f"cache.pairs: none of the sources {', '.join(sources)} has a frame with neighbours "
            f"before and after it at offsets {list(run.cache.pairs.offsets)} ({lonely} frames of "
            "clips lack one side); give smaller offsets, or a source with clips (docs/video.md)"
        )
    return found
