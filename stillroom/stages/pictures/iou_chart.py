"""A bar chart of the IoU of every class, several runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.stages.pictures.chart import (
    POINT,
    chart,
    headed,
    key_height,
    name_rows,
    series_colours,
)
from stillroom.stages.pictures.page import FAINT, INK, SMALL, fitted
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from stillroom.stages.evaluate.confusion import Scores

    Line = tuple[str, list[float | None]]

BAR, BETWEEN = 13, 11  # pixels of a bar, and between the bars of two classes
PANEL_LINES = 40  # more classes than this go into panels side by side
LONGEST_LABEL = 170
MEAN = "mIoU"


def iou_chart(
    path: Path,
    runs: Mapping[str, Scores],
    *,
    title: str = "IoU by class",
    colours: Mapping[str, str] | None = None,
) -> Path:
    """Draw the IoU of each class as bars, one a run, below the mIoU, as a PNG.

    Args:
        path: of the PNG; its folder is made.
        runs: scores by the name of the run; all of the same classes.
        title: the first line.
        colours: of each run, where another chart shows it too; chosen here if left out.

    Raises:
        ConfigError: no runs, or their classes differ.
    """
    lines = _lines(runs)
    count = -(-len(lines) // PANEL_LINES)
    each = -(-len(lines) // count)
    step = len(runs) * BAR + BETWEEN
    shown = (
        series_colours(list(runs)) if colours is None else {name: colours[name] for name in runs}
    )
    width = 700 if count == 1 else 560
    room = width - 200
    height = each * step + key_height(shown, room) + 90
    with chart(path, count * width, height, title) as figure:
        panels = figure.subplots(1, count, squeeze=False)[0]
        headed(panels[0], "", shown, room)
        for number, axes in enumerate(panels):
            _draw_bars(axes, lines[number * each :][:each], list(shown.values()))
            axes.set_ylim(each * step, 0)
    return path


def _lines(runs: Mapping[str, Scores]) -> list[Line]:
    """A name and the values of all runs for each line of the chart, the mean first."""
    if not runs:
        raise ConfigError("a chart needs at least one run to show")
    scores = list(runs.values())
    classes = scores[-1].classes
    for name, one in runs.items():
        if one.classes != classes:
            raise ConfigError(f"{name} was scored on other classes than {list(runs)[-1]}")
    lines = [(name, [one.iou[index] for one in scores]) for index, name in enumerate(classes)]
    return [(MEAN, [one.miou for one in scores]), *lines]


def _draw_bars(axes: Axes, lines: Sequence[Line], colours: Sequence[str]) -> None:
    """Draw bars in pixels from the top, so that they are about as thick in every chart."""
    step = len(colours) * BAR + BETWEEN
    for position, (name, values) in enumerate(lines):
        for number, value in enumerate(values):
            middle = position * step + BETWEEN / 2 + (number + 0.5) * BAR
            axes.barh(middle, value or 0, height=BAR - 2, color=colours[number])
            axes.annotate(
                "absent" if value is None else f"{value:.3f}", (value or 0, middle), (5, 0),
                textcoords="offset points", va="center_baseline", fontsize=(SMALL - 1) * POINT,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0},
                color=INK if name == MEAN else FAINT, fontweight="bold" if name == MEAN else None,
            )  # fmt: skip
        if name == MEAN:
            axes.axhline(step, color=FAINT, linewidth=0.8)
    middles = [(position + 0.5) * step for position in range(len(lines))]
    names = [fitted(name, LONGEST_LABEL, bold=name == MEAN) for name, _ in lines]
    name_rows(axes, middles, names)
    for label, (name, _) in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if name == MEAN else "normal")
    axes.set_xlim(0, 1)
    axes.set_xlabel("IoU")
