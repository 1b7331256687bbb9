"""The tables of a sweep as text and Markdown: a line a teacher or variant, and IoU by class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.pipeline.sweep.results import (
    best_row,
    main_measure,
    ranking_measure,
    task_measures,
)
from stillroom.stages.train.run_folder import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stillroom.pipeline.sweep.file import Sweep
    from stillroom.pipeline.sweep.results import Row, Spread
    from stillroom.pipeline.sweep.sweep_settings import SweepConfig

Lines = list[list[str]]
NONE = "-"
STEADINESS = {
    "TC": "tc",
    "TC, visible": "tc_visible",
    "TC, shared": "tc_shared",
    "pixels that stay": "stay",
    "Tsb": "stability",
}


def summary(sweep: Sweep, rows: Sequence[Row]) -> tuple[list[str], Lines]:
    """Return head and lines of the table: a line a teacher or variant."""
    main = main_measure(rows)
    others = [name for name in task_measures(rows) if name != main]
    head = ["", "n", f"test {label_of(main)}", "min to max"]
    head += [] if sweep.baseline is None else [f"over {sweep.baseline}"]
    shows_classes = main == "miou"
    head += ["pixel accuracy"] if shows_classes else []
    head += others
    head += list(STEADINESS) if sweep.has_video else []
    head += ["s / step", "waiting", "memory"]
    head += ["stopped early"] if sweep.config.asha else []
    lines = []
    for row in rows:
        score = row.spread(main)
        lines.append(
            [
                row.name,
                f"{len(row.students)}",
                _mean(score, ".4f"),
                NONE if score is None or score.n < 2 else f"{score.min:.4f} to {score.max:.4f}",
                *([] if sweep.baseline is None else [_gain(row, sweep.baseline)]),
                *(_mean(row.spread(each), ".4f") for each in ("pixel_accuracy",) if shows_classes),
                *(_mean(row.spread(each), ".4f") for each in others),
                *(_spread(row.spread(each)) for each in STEADINESS.values() if sweep.has_video),
                _mean(row.spread("seconds_per_step"), ".3f"),
                _mean(row.spread("waiting"), ".1%"),
                _mean(row.spread("peak_memory_mb"), ".0f", " MB"),
                *([_stopped(row)] if sweep.config.asha else []),
            ]
        )
    return head, lines


def by_class(rows: Sequence[Row]) -> tuple[list[str], Lines]:
    """Return head and lines of the table of IoU by class, means over the seeds."""
    classes = next((row.classes for row in rows if row.classes), ())
    lines = [
        [row.name, *(_mean(row.iou(name), ".3f") for name in classes)]
        for row in rows
        if row.students
    ]
    return ["", *classes], lines


def best(sweep: Sweep, rows: Sequence[Row]) -> list[str]:
    """Return a line that names the best point of a search; none where nothing was searched."""
    row = best_row(rows) if sweep.config.search else None
    if row is None:
        return []
    measure = ranking_measure(rows)
    score, validated, name = row.spread(measure), row.spread("validation"), label_of(measure)
    by = f"test {name}" if validated is None else f"validation: {validated.mean:.4f}; test {name}"
    return [f"best by {by} {_mean(score, '.4f')}, n = {len(row.students)}: {row.name}"]


def label_of(measure: str) -> str:
    """Return what a measure is called in tables."""
    return "mIoU" if measure == "miou" else measure


def explained(sweep: Sweep, rows: Sequence[Row]) -> str:
    """Return how the numbers of the table are to be read."""
    name = label_of(main_measure(rows))
    gains = "" if sweep.baseline is None else f"gains in points of {name}; "
    early = "those stopped early are in no mean; " if sweep.config.asha else ""
    steady = ""
    if sweep.has_video:
        steady = (
            "TC and Tsb along clips, with the deviation of a sample, TC also over the classes that "
            "all students predict; "
        )
    return (
        f"means over n seeds, with the lowest and the highest {name}; {gains}"
        f"{steady}{early}memory: the most that a process held, training and scoring; "
        f"students trained {_side_by_side(sweep.config)}"
    )


def _side_by_side(config: SweepConfig) -> str:
    if config.parallel == 1:
        return "one at a time"
    if config.parallel is None and not (config.gpus_per_student or config.cpus_per_student):
        return "one at a time, on Ray as many side by side as there is room for"
    many = config.parallel or "as many as there is room for"
    return f"{many} side by side, which s / step and waiting show"


def markdown(sweep: Sweep, rows: Sequence[Row]) -> str:
    """Return both tables as a page."""
    given = (f"--set {each}" for each in sweep.overrides)
    command = " ".join(["stillroom sweep", str(sweep.file), *given])
    parts = [f"# {sweep.file.stem}", f"`{command}`, from `{sweep.config.run}`."]
    parts += [_markdown(*summary(sweep, rows)), *best(sweep, rows), explained(sweep, rows) + "."]
    head, lines = by_class(rows)
    if lines and len(head) > 1:
        parts += ["## IoU by class, mean over the seeds", _markdown(head, lines)]
    return "\n\n".join(parts) + "\n"


def write_table(path: Path, sweep: Sweep, rows: Sequence[Row]) -> None:
    """Write the page to `path`, atomically."""
    write_whole(path, markdown(sweep, rows).encode())


def _stopped(row: Row) -> str:
    said = (f"seed {each.seed} at step {each.step}: {each.miou:.4f}" for each in row.stopped)
    return ", ".join(said) or NONE


def _gain(row: Row, baseline: str) -> str:
    return NONE if row.gain is None or row.name == baseline else f"{100 * row.gain:+.2f}"


def _mean(found: Spread | None, form: str, unit: str = "") -> str:
    return NONE if found is None else f"{found.mean:{form}}{unit}"


def _spread(found: Spread | None) -> str:
    """The mean, and the standard deviation of a sample where there is one."""
    if found is None:
        return NONE
    digits = ".4f" if found.mean >= 0.01 else ".5f"  # Tsb is small
    return f"{found.mean:{digits}}" + ("" if found.std is None else f" ± {found.std:{digits}}")


def _markdown(head: list[str], lines: Lines) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
