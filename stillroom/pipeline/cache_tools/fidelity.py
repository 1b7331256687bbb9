"""`cache fidelity`: the teacher once more on a few frames, held against what the cache says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.pipeline.build.sets import sets_of_run
from stillroom.pipeline.cache_tools.fidelity_of_set import FidelityJob
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stillroom.pipeline.cache_tools.fidelity_of_set import SetFidelity
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.models.teacher import Teacher


@dataclass(frozen=True)
class FidelityRequest:
    """What is to be compared.

    frames: of each source, spread evenly over those that are usable
    source: only this one; all of them if left out
    codecs: try every other codec on the same live outputs too
    plot: PNG of mirrored frames; with several sets their names are added
    """

    frames: int = 16
    source: str | None = None
    codecs: bool = False
    plot: Path | None = None


def measure_fidelity(
    run: RunConfig,
    request: FidelityRequest,
    on_frame: Callable[[int, int], None] = lambda done, total: None,
) -> list[SetFidelity]:
    """Compare every cached teacher of a run, or those of one source, with the teacher live.

    on_frame: told (frames done, frames in all)

    Raises:
        CacheMismatch: the cache was built from something else, another teacher, say.
        CacheIncomplete: nothing is cached to compare with.
        ConfigError: the run has no teacher, or no such source.
    """
    from stillroom.stages.pictures.page import make_place
    from stillroom.stages.torch_state import threads

    source, plot = request.source, request.plot
    opened = open_run(run, must_exist=False)
    teachers = opened.teachers
    pairs = [pair for pair in opened.names() if pair[1] in teachers and source in (None, pair[0])]
    if not pairs:
        known = ", ".join(run.cached_sources())
        raise ConfigError(
            f"no teacher of this run on source {source!r}; cached are {known}"
            if source is not None and teachers
            else "this run has no teacher to ask"
        )
    if plot is not None:
        make_place(plot)
    cache = Cache.open(run.cache.path)
    jobs = [  # all sets are opened and checked before any teacher is built
        FidelityJob(
            opened, cache, one.source, one.name, one.artifacts, request.frames, request.codecs
        )
        for one in sets_of_run(opened, cache, pairs)
    ]
    total, done, reports = sum(len(job.chosen) for job in jobs), 0, []
    built: tuple[str, Teacher] | None = None
    with threads(run.cache.threads):
        for job in jobs:
            if built is None or built[0] != job.teacher_name:
                built = None  # let the old one go before the new one takes its memory
                built = (job.teacher_name, job.build())
            job.meet(built[1])
            for index in job.chosen:
                job.add(index)
                done += 1
                on_frame(done, total)
            path = plot
            if plot is not None and len(jobs) > 1:
                path = plot.with_stem(f"{plot.stem}-{job.source}-{job.set_name}")
            reports.append(job.report(path))
    return reports
