"""Curves over training steps, or over the frames of a clip: losses, mIoU, consistency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.pictures.page import (
    FAINT,
    KEY_HEIGHT,
    LINE,
    TEXT,
    TITLE,
    Page,
    fitted,
    font,
    key_lines,
    series_colours,
    style_axes,
)
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MARGIN, GAP = 28, 28
WIDTH, HEIGHT = 640, 300  # of the plot itself, in pixels
TICKS, FOOT = 62, 50  # room for the tick labels at the left and below
SMOOTHED = 200  # curves with more points than this get a running mean


@dataclass(frozen=True)
class Panel:
    """One plot of `curve_chart`.

    Attributes:
        title: above it.
        series: (steps, values) by name, steps increasing; a value that is not finite leaves a gap.
        logarithmic: the vertical axis; values at or below 0 then leave gaps too.
        limits: of the vertical axis; fitted to the values if left out.
        along: what the horizontal axis counts.
    """

    title: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    logarithmic: bool = False
    limits: tuple[float, float] | None = None
    along: str = "step"


def curve_chart(path: Path, panels: Sequence[Panel], *, title: str = "Training") -> Path:
    """Draw curves as a PNG, one plot a panel, two beside each other.

    A name has one colour in all panels. A curve of more than 200 points is drawn faintly, with its
    running mean over 2 % of the points on top.

    Args:
        path: of the PNG; its folder is made.
        panels: what to draw; those without a point are left out.
        title: the first line.

    Raises:
        ConfigError: no panel has a point.
        ArtifactError: a series has more steps than values, or fewer.
    """
    drawn = [panel for panel in panels if _points(panel)]
    if not drawn:
        raise ConfigError("no curve to draw: nothing has been recorded yet")
    names = list(dict.fromkeys(name for panel in drawn for name in panel.series))
    colours = series_colours(names)
    columns = min(2, len(drawn))
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    heads = [30 + KEY_HEIGHT * max(len(_key(panel)) for panel in row) for row in rows]
    page = Page(
        2 * MARGIN + columns * (TICKS + WIDTH + GAP) - GAP,
        MARGIN + TITLE + 16 + sum(heads) + len(rows) * (HEIGHT + FOOT + GAP) - GAP + MARGIN,
    )
    room = page.width - 2 * MARGIN
    page.text(MARGIN, MARGIN - 8, fitted(title, room, TITLE, bold=True), TITLE, bold=True)
    top = MARGIN + TITLE + 16
    for row, head in zip(rows, heads, strict=True):
        for column, panel in enumerate(row):
            left = MARGIN + column * (TICKS + WIDTH + GAP) + TICKS
            titled = panel.title + (" (logarithmic axis)" if panel.logarithmic else "")
            page.text(left, top, fitted(titled, WIDTH, TEXT, bold=True), TEXT, bold=True)
            page.key(left, top + 24, _key(panel), colours)
            _draw(page.axes(left, top + head, WIDTH, HEIGHT), panel, colours)
        top += head + HEIGHT + FOOT + GAP
    return page.save(path)


def _points(panel: Panel) -> int:
    for name, (steps, values) in panel.series.items():
        if len(steps) != len(values):
            raise ArtifactError(f"{panel.title}: {name}: {len(steps)} steps, {len(values)} values")
    return sum(len(steps) for steps, _ in panel.series.values())


def _key(panel: Panel) -> list[list[tuple[float, str, str]]]:
    return key_lines(list(panel.series), WIDTH)


def _draw(axes: Axes, panel: Panel, colours: Mapping[str, str]) -> None:
    """The curves of one panel."""
    from matplotlib.ticker import MaxNLocator

    for name, (steps, values) in panel.series.items():
        along, found = np.asarray(steps, np.float64), np.asarray(values, np.float64)
        shown = np.isfinite(found) & ((found > 0) | (not panel.logarithmic))
        found = np.where(shown, found, np.nan)
        colour, many = colours[name], len(found) > SMOOTHED
        marker = "o" if len(found) <= 30 else ""
        axes.plot(
            along, found, color=colour, linewidth=0.8 if many else 1.6, alpha=0.25 if many else 1,
            marker=marker, markersize=4,
        )  # fmt: skip
        if many:
            axes.plot(along, _running_mean(found), color=colour, linewidth=1.8)
    if panel.logarithmic:
        axes.set_yscale("log")
        _plain_log_ticks(axes)
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_xlabel(panel.along, color=FAINT, fontproperties=font(TEXT))
    style_axes(axes)


def _plain_log_ticks(axes: Axes) -> None:
    """Ticks at 1, 2 and 5 of each decade, written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_ylim()
    wide = high / low > 1000
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _running_mean(values: Floats) -> Floats:
    """Mean over a window of 2 % of the points around each; gaps stay gaps."""
    half = max(1, len(values) // 100)
    known = np.isfinite(values)
    sums = np.concatenate(([0.0], np.cumsum(np.where(known, values, 0))))
    counts = np.concatenate(([0], np.cumsum(known)))
    start = np.maximum(np.arange(len(values)) - half, 0)
    stop = np.minimum(np.arange(len(values)) + half + 1, len(values))
    mean = (sums[stop] - sums[start]) / np.maximum(counts[stop] - counts[start], 1)
    return np.where(known, mean, np.nan)
