"""A sweep as pictures: a dot for every student, and the IoU of every class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.pipeline.sweep.results import main_measure
from stillroom.pipeline.sweep.tables import label_of
from stillroom.stages.evaluate.confusion import Scores
from stillroom.stages.pictures.chart import chart, name_rows, series_colours
from stillroom.stages.pictures.iou_chart import iou_chart
from stillroom.stages.pictures.page import FAINT, INK, LINE, fitted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from stillroom.pipeline.sweep.file import Sweep
    from stillroom.pipeline.sweep.results import Row

STEP, WIDTH, LONGEST_LABEL = 34, 990, 300
DOT, MEAN = 34, 11  # area of a dot, height of the line of a mean
LEAST_SPAN = 0.02  # of a score: differences smaller than those of seeds are drawn small


def draw_scores(path: Path, sweep: Sweep, rows: Sequence[Row]) -> Path:
    """Draw rows down, the main score across: a dot a seed, a stroke the mean, the baseline."""
    measure = main_measure(rows)
    name = label_of(measure)
    shown = [row for row in rows if row.spread(measure) is not None]
    with chart(path, WIDTH, len(shown) * STEP + 80, f"{sweep.file.stem}: test {name}") as figure:
        axes = figure.subplots()
        words = "a dot a seed, a stroke for the mean"
        words += "" if sweep.baseline is None else f"; the line: {sweep.baseline}"
        axes.set_title(fitted(words, WIDTH / 2), color=FAINT, fontweight="normal")
        _draw_dots(axes, shown, measure, sweep.baseline, _colours(rows))
        axes.set_xlabel(name)
    return path


def _colours(rows: Sequence[Row]) -> dict[str, str]:
    """A colour a row, in all charts of a sweep; rows of which nothing is done yet keep theirs."""
    return series_colours([row.name for row in rows])


def _draw_dots(
    axes: Axes,
    rows: Sequence[Row],
    measure: str,
    baseline: str | None,
    colours: Mapping[str, str],
) -> None:
    from matplotlib.ticker import MaxNLocator

    scores = {row.name: [one.score(measure) for one in row.students] for row in rows}
    values = [score for row in scores.values() for score in row if score is not None]
    span = max(max(values) - min(values), LEAST_SPAN)
    axes.set_xlim(min(values) - 0.08 * span, max(values) + 0.08 * span)
    axes.set_ylim(len(rows) * STEP, 0)
    middles = [(position + 0.5) * STEP for position in range(len(rows))]
    means = []
    for row, middle in zip(rows, middles, strict=True):
        found, colour = row.spread(measure), colours[row.name]
        known = [score for score in scores[row.name] if score is not None]
        axes.axhline(middle, color=LINE, linewidth=0.6, zorder=0)
        axes.scatter(
            known, [middle] * len(known),
            s=DOT, color=colour, alpha=0.55, linewidths=0, zorder=2,
        )  # fmt: skip
        means.append("" if found is None else f"{found.mean:.4f}")
        if found is not None:
            axes.vlines(found.mean, middle - MEAN, middle + MEAN, color=INK, linewidth=1.6)
            if row.name == baseline:
                axes.axvline(found.mean, color=colour, linewidth=1, linestyle="--", zorder=1)
    name_rows(axes, middles, [fitted(row.name, LONGEST_LABEL) for row in rows])
    right = axes.secondary_yaxis("right")
    right.set_yticks(middles, means)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(7))


def draw_classes(path: Path, sweep: Sweep, rows: Sequence[Row]) -> Path:
    """Draw the IoU of every class as bars, means over the seeds, a colour a row."""
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
