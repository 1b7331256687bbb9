"""Sweeps as text: what is to be done, and the table of the results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.commands.quantities import place
from stillroom.commands.show.grid import grid
from stillroom.pipeline.sweep.tables import best, by_class, explained, summary

if TYPE_CHECKING:
    from rich.console import RenderableType

    from stillroom.pipeline.sweep.file import Sweep, Trial
    from stillroom.pipeline.sweep.results import SweepResult
    from stillroom.pipeline.sweep.run import SweepPlan

STATES = {
    "done": "done",
    "stopped": "stopped early",
    "failed": "failed",
    "trained": "trained, to be scored",
    "begun": "begun, goes on",
    "new": "to be trained",
    "changed": "of another config",
}


def plan(found: SweepPlan) -> list[RenderableType]:
    """Lay out what a sweep would do."""

    def row(trial: Trial, kind: str) -> list[str]:
        if trial.seed is None:
            return [
                trial.row,
                "",
                "to be scored" if kind == "new" else STATES[kind],
                str(trial.place),
            ]
        return [trial.row, f"{trial.seed}", STATES[kind], str(trial.place)]

    rows = (row(trial, state.kind) for trial, state in found.states.items())
    cache = "is whole" if not found.missing_shards else f"lacks {found.missing_shards} shards"
    if found.missing_shards is None:
        cache = "is taken as it is: not all of its sources are on this machine"
    done = len(found.chosen) - len(found.pending)
    return [
        grid(("variant", "seed", "state", "folder"), rows, left=(0, 2, 3)),
        f"cache {place(found.sweep.run.cache.path)} {cache}",
        *_unscored(found.sweep),
        *_undrawn(found.sweep),
        f"{done} of {len(found.chosen)} chosen are done. nothing is begun (--dry-run)",
    ]


def result(found: SweepResult, *, per_class: bool) -> list[RenderableType]:
    """Lay out the table, and name the files.

    Args:
        per_class: with the table of IoU by class
    """
    tables = [summary(found.sweep, found.rows), *([by_class(found.rows)] if per_class else [])]
    parts: list[RenderableType] = [part for table in tables for part in (grid(*table), "")]
    parts += [*best(found.sweep, found.rows), explained(found.sweep, found.rows)]
    parts += _unscored(found.sweep)
    return [*parts, *map(place, found.files)]


def _undrawn(sweep: Sweep) -> list[str]:
    left = sweep.config.samples - sum(map(len, sweep.rounds))
    if not sweep.rounds or not left:
        return []
    return [f"{left} of {sweep.config.samples} draws are made later, by what these score"]


def _unscored(sweep: Sweep) -> list[str]:
    return [
        f"teacher {name} is not scored: its classes are not those of the labels"
        for name in sweep.unscored
    ]
