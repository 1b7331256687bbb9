"""A sweep as pictures: a dot for every student, and the IoU of every class."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from stillroom.stages.evaluate.confusion import Scores
from stillroom.stages.pictures.iou_chart import iou_chart
from stillroom.stages.pictures.page import (
    FAINT,
    INK,
    LINE,
    SMALL,
    TEXT,
    TITLE,
    Page,
    fitted,
    font,
    series_colours,
    style_axes,
    text_width,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from stillroom.pipeline.sweep.file import Sweep
    from stillroom.pipeline.sweep.results import Row

MARGIN, STEP, WIDTH, FOOT = 28, 34, 560, 50
LONGEST_LABEL, VALUE_WIDTH = 300, 64
DOT, MEAN = 34, 11  # area of a dot, height of the line of a mean
LEAST_SPAN = 0.02  # of mIoU: what no seed tells apart is not to look far apart


def draw_miou(path: Path, sweep: Sweep, rows: Sequence[Row]) -> Path:
    """Rows down, test mIoU across: a dot a seed, the mean as a stroke, the baseline as a line."""
    shown = [row for row in rows if row.students]
    label = min(LONGEST_LABEL, ceil(max(text_width(row.name) for row in shown))) + 12
    top = MARGIN + TITLE + 34
    height = len(shown) * STEP
    page = Page(round(2 * MARGIN + label + WIDTH + VALUE_WIDTH), top + height + FOOT + MARGIN // 2)
    room = page.width - 2 * MARGIN
    title = f"{sweep.file.stem}: test mIoU"
    page.text(MARGIN, MARGIN - 8, fitted(title, room, TITLE, bold=True), TITLE, bold=True)
    said = f"a dot a seed, a stroke for the mean; the line: {sweep.baseline}"
    page.text(MARGIN, MARGIN + TITLE + 4, fitted(said, room), colour=FAINT)
    axes = page.axes(MARGIN + label, top, WIDTH, height)
    _draw_dots(axes, shown, sweep.baseline, _colours(rows))
    for position, row in enumerate(shown):
        middle = top + (position + 0.5) * STEP
        name = fitted(row.name, label - 12)
        page.text(MARGIN + label - 12, middle, name, ha="right", va="center_baseline")
        found = row.spread("miou")
        value = "" if found is None else f"{found.mean:.4f}"
        left = MARGIN + label + WIDTH + 10
        page.text(left, middle, value, SMALL, FAINT, va="center_baseline")
    return page.save(path)


def _colours(rows: Sequence[Row]) -> dict[str, str]:
    """A colour a row, in all charts of a sweep; rows of which nothing is done yet keep theirs."""
    return series_colours([row.name for row in rows])


def _draw_dots(axes: Axes, rows: Sequence[Row], baseline: str, colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator

    values = [student.miou for row in rows for student in row.students]
    span = max(max(values) - min(values), LEAST_SPAN)
    axes.set_xlim(min(values) - 0.08 * span, max(values) + 0.08 * span)
    axes.set_ylim(len(rows) * STEP, 0)
    axes.set_yticks([])
    for position, row in enumerate(rows):
        middle = (position + 0.5) * STEP
        found, colour = row.spread("miou"), colours[row.name]
        axes.axhline(middle, color=LINE, linewidth=0.6, zorder=0)
        axes.scatter(
            [student.miou for student in row.students], [middle] * len(row.students),
            s=DOT, color=colour, alpha=0.55, linewidths=0, zorder=2,
        )  # fmt: skip
        if found is not None:
            axes.vlines(found.mean, middle - MEAN, middle + MEAN, color=INK, linewidth=1.6)
            if row.name == baseline:
                axes.axvline(found.mean, color=colour, linewidth=1, linestyle="--", zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_xlabel("mIoU", color=FAINT, fontproperties=font(TEXT))
    style_axes(axes)


def draw_classes(path: Path, sweep: Sweep, rows: Sequence[Row]) -> Path:
    """The IoU of every class as bars, means over the seeds, teachers and variants side by side."""
    means = {}
    for row in rows:
        miou, accuracy = row.spread("miou"), row.spread("pixel_accuracy")
        if miou is None or accuracy is None:
            continue
        classes = [row.iou(name) for name in row.classes]
        means[row.name] = Scores(
            classes=row.classes,
            miou=miou.mean,
            mean_accuracy=0.0,  # neither of these is drawn
            pixel_accuracy=accuracy.mean,
            iou=tuple(None if one is None else one.mean for one in classes),
            accuracy=(None,) * len(row.classes),
            pixels=(0,) * len(row.classes),
        )
    title = f"{sweep.file.stem}: IoU by class, mean over the seeds"
    return iou_chart(path, means, title=title, colours=_colours(rows))
