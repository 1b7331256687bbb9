"""The pairs of frames whose motion a run caches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stillroom.stages.cache.items import PairItems
from stillroom.stages.sources.pairs import plan_pairs
from stillroom.storage_specs.artifacts import FLOW
from stillroom.storage_specs.codecs.steps import FLOW_MAX
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.sources.source import Source
    from stillroom.storage_specs.presets import Preset


def pairs_of(run: RunConfig, sources: Mapping[str, Source], preset: Preset) -> dict[str, PairItems]:
    """The pairs of every source that has some, by the run's plan.

    Raises:
        ConfigError: no source has any, or two frames of a clip have one time.
    """
    if run.cache.pairs is None or not sources:
        return {}
    limit = FLOW_MAX if preset.storage(FLOW).codec.name == "flow" else math.inf
    plans = {name: plan_pairs(source, run.cache.pairs) for name, source in sources.items()}
    found = {
        name: PairItems(sources[name], run.cache.canvas, plan, limit)
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
