"""A bar chart of the IoU of every class, several runs side by side."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Literal

from stillroom.stages.pictures.page import (
    FAINT,
    INK,
    KEY_HEIGHT,
    LINE,
    SMALL,
    TEXT,
    TITLE,
    Page,
    fitted,
    font,
    key_lines,
    series_colours,
    style_axes,
    text_width,
)
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from stillroom.stages.evaluate.confusion import Scores

    Line = tuple[str, list[float | None]]

MARGIN, GAP = 28, 40
BAR, BETWEEN = 13, 11  # pixels of a bar, and between the bars of two classes
PANEL_LINES = 40  # more classes than this go into panels side by side
VALUE_WIDTH, LONGEST_LABEL = 50, 170
MEAN = "mIoU"


def iou_chart(
    path: Path,
    runs: Mapping[str, Scores],
    *,
    title: str = "IoU by class",
    order: Literal["given", "best"] = "given",
    colours: Mapping[str, str] | None = None,
) -> Path:
    """Draw the IoU of each class as bars, one a run, below the mIoU, as a PNG.

    Args:
        path: of the PNG; its folder is made.
        runs: scores by the name of the run; all of the same classes.
        title: the first line.
        order: "given": as the classes are numbered; "best": by the IoU of the last run.
        colours: of each run, where another chart shows it too; chosen here if left out.

    Raises:
        ConfigError: no runs, or their classes differ.
    """
    lines = _lines(runs, order)
    count = -(-len(lines) // PANEL_LINES)
    each = -(-len(lines) // count)
    panels = [lines[start : start + each] for start in range(0, len(lines), each)]
    longest = ceil(max(text_width(name, bold=name == MEAN) for name, _ in lines))
    label = min(LONGEST_LABEL, longest) + 10
    bars = 520 if count == 1 else 300
    pitch = label + bars + VALUE_WIDTH + GAP
    width = round(2 * MARGIN + count * pitch - GAP)
    room = width - 2 * MARGIN
    key = key_lines(list(runs), room)
    top = MARGIN + TITLE + 14 + len(key) * KEY_HEIGHT + 6
    step = len(runs) * BAR + BETWEEN
    page = Page(width, top + each * step + 34 + MARGIN // 2)
    page.text(MARGIN, MARGIN - 8, fitted(title, room, TITLE, bold=True), TITLE, bold=True)
    colours = series_colours(list(runs)) if colours is None else colours
    page.key(MARGIN, MARGIN + TITLE + 12, key, colours)
    for number, panel in enumerate(panels):
        left = MARGIN + number * pitch + label
        axes = page.axes(left, top, bars, len(panel) * step)
        _draw_bars(axes, panel, [colours[name] for name in runs], step)
        for position, (name, _) in enumerate(panel):
            shown = fitted(name, label - 10, bold=name == MEAN)
            middle = top + (position + 0.5) * step
            page.text(left - 10, middle, shown, bold=name == MEAN, ha="right", va="center_baseline")
    return page.save(path)


def _lines(runs: Mapping[str, Scores], order: str) -> list[Line]:
    """A name and the values of all runs for each line of the chart, the mean first."""
    if order not in ("given", "best"):
        raise ConfigError(f'order: expected "given" or "best", got {order!r}')
    if not runs:
        raise ConfigError("a chart needs at least one run to show")
    scores = list(runs.values())
    classes = scores[-1].classes
    for name, one in runs.items():
        if one.classes != classes:
            raise ConfigError(f"{name} was scored on other classes than {list(runs)[-1]}")
    lines: list[Line] = [
        (name, [one.iou[index] for one in scores]) for index, name in enumerate(classes)
    ]
    if order == "best":
        lines.sort(key=lambda line: -1.0 if line[1][-1] is None else line[1][-1], reverse=True)
    return [(MEAN, [one.miou for one in scores]), *lines]


def _draw_bars(axes: Axes, lines: Sequence[Line], colours: Sequence[str], step: int) -> None:
    """Bars in pixels from the top, so that they are as thick in every chart."""
    axes.set_xlim(0, 1)
    axes.set_ylim(len(lines) * step, 0)
    axes.set_yticks([])
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    style_axes(axes)
    for position, (name, values) in enumerate(lines):
        for number, value in enumerate(values):
            middle = position * step + BETWEEN / 2 + (number + 0.5) * BAR
            if value is not None:
                axes.barh(middle, value, height=BAR - 2, color=colours[number])
            axes.annotate(
                "absent" if value is None else f"{value:.3f}",
                (value or 0, middle),
                (5, 0),
                textcoords="offset points",
                va="center_baseline",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0},
                color=INK if name == MEAN else FAINT,
                fontproperties=font(SMALL - 1, bold=name == MEAN),
            )
        if name == MEAN:
            axes.axhline(step, color=FAINT, linewidth=0.8)
    axes.set_xlabel("IoU", color=FAINT, fontproperties=font(TEXT))
