"""The tables of a sweep as text and Markdown: a line a teacher or variant, and IoU by class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.pipeline.sweep.results import best_row
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
    head = ["", "n", "test mIoU", "min to max"]
    head += [] if sweep.baseline is None else [f"over {sweep.baseline}"]
    head += ["pixel accuracy"]
    head += list(STEADINESS) if sweep.has_video else []
    head += ["s / step", "waiting", "memory"]
    head += ["stopped early"] if sweep.config.asha else []
    lines = []
    for row in rows:
        miou = row.spread("miou")
        lines.append(
            [
                row.name,
                f"{len(row.students)}",
                _mean(miou, ".4f"),
                NONE if miou is None or miou.n < 2 else f"{miou.min:.4f} to {miou.max:.4f}",
                *([] if sweep.baseline is None else [_gain(row, sweep.baseline)]),
                _mean(row.spread("pixel_accuracy"), ".4f"),
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
    miou, validated = row.spread("miou"), row.spread("validation")
    by = "test mIoU" if validated is None else f"validation: {validated.mean:.4f}; test mIoU"
    return [f"best by {by} {_mean(miou, '.4f')}, n = {len(row.students)}: {row.name}"]


def explained(sweep: Sweep) -> str:
    """Return how the numbers of the table are to be read."""
    gains = "" if sweep.baseline is None else "gains in points of mIoU; "
    early = "those stopped early are in no mean; " if sweep.config.asha else ""
    steady = ""
    if sweep.has_video:
        steady = (
            "TC and Tsb along clips, with the deviation of a sample, TC also over the classes that "
            "all students predict; "
        )
    return (
        f"means over n seeds, with the lowest and the highest mIoU; {gains}"
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
    parts += [_markdown(*summary(sweep, rows)), *best(sweep, rows), explained(sweep) + "."]
    head, lines = by_class(rows)
    if lines:
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
