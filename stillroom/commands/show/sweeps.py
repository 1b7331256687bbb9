"""Reports of sweeps: what is to be done, and the table of what the students are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.commands.show.reports import Shown, grid
from stillroom.pipeline.sweep.results import document
from stillroom.pipeline.sweep.tables import by_class, explained, summary

if TYPE_CHECKING:
    from stillroom.pipeline.sweep.file import Sweep
    from stillroom.pipeline.sweep.run import SweepPlan, SweepResult
    from stillroom.pipeline.sweep.tables import Lines

SAID = {
    "done": "done",
    "trained": "trained, to be scored",
    "begun": "begun, goes on",
    "new": "to be trained",
    "changed": "of another config",
}


def plan(found: SweepPlan) -> Shown:
    """What a sweep would do."""
    table = grid("variant", "seed", "state", "folder")
    table.columns[2].justify = table.columns[3].justify = "left"
    runs = []
    for work, state in found.states.items():
        said = "to be scored" if work.seed is None and state.kind == "new" else SAID[state.kind]
        folder = work.record if work.seed is None else work.record.parent
        seed = "" if work.seed is None else f"{work.seed}"
        table.add_row(work.row, seed, said, str(folder))
        runs.append(
            {
                "name": work.row,
                "seed": work.seed,
                "state": state.kind,
                "folder": str(folder),
                "chosen": work in found.chosen,
                "differences": list(state.differences),
            }
        )
    done = sum(found.states[work].kind == "done" for work in found.chosen)
    cache = "is whole" if not found.missing_shards else f"lacks {found.missing_shards} shards"
    if found.missing_shards is None:
        cache = "is taken as it is: not all of its sources are on this machine"
    parts: list[Any] = [
        table,
        f"cache {found.sweep.run.cache.path} {cache}",
        *_unscored(found.sweep),
        f"{done} of {len(found.chosen)} chosen are done. nothing is begun (--dry-run)",
    ]
    return Shown(parts, {"missing_shards": found.missing_shards, "runs": runs})


def result(found: SweepResult, *, per_class: bool) -> Shown:
    """The table, and where to look."""
    parts: list[Any] = [_grid(*summary(found.sweep, found.rows))]
    if per_class:
        parts += ["", _grid(*by_class(found.rows))]
    parts += ["", explained(found.sweep), *_unscored(found.sweep)]
    parts += [f"{path}" for path in found.files]
    return Shown(parts, document(found.sweep, found.rows, found.failed))


def _unscored(sweep: Sweep) -> list[str]:
    return [
        f"teacher {name} is not scored: its classes are not those of the labels"
        for name in sweep.unscored
    ]


def _grid(head: list[str], lines: Lines) -> Any:
    table = grid(*head)
    for line in lines:
        table.add_row(*line)
    return table
