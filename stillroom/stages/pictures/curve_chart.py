"""Curves over training steps, or over the frames of a clip: losses, mIoU, consistency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.pictures.chart import chart, headed, key_height, series_colours
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from stillroom.stages.evaluate.temporal_consistency import Consistency

    Floats = NDArray[np.float64]

WIDTH, HEIGHT = 730, 410  # of a panel without its key, in pixels
SMOOTHED = 200  # curves with more points than this get a running mean


@dataclass(frozen=True)
class Panel:
    """One plot of `curve_chart`.

    Attributes:
        title: above it.
        series: (steps, values) by name, steps increasing; a value that is not finite leaves a gap.
        logarithmic: the vertical axis; values at or below 0 then leave gaps too.
        along: what the horizontal axis counts.
    """

    title: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    logarithmic: bool = False
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
    colours = series_colours(list(dict.fromkeys(name for panel in drawn for name in panel.series)))
    columns = min(2, len(drawn))
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    keys = [max(key_height(panel.series, WIDTH - 80) for panel in row) for row in rows]
    with chart(path, columns * WIDTH, len(rows) * HEIGHT + sum(keys), title) as figure:
        for place, panel in enumerate(drawn, 1):
            axes = figure.add_subplot(len(rows), columns, place)
            _draw(axes, panel, colours)
            words = panel.title + (" (logarithmic axis)" if panel.logarithmic else "")
            headed(axes, words, {name: colours[name] for name in panel.series}, WIDTH - 80)
    return path


def _points(panel: Panel) -> int:
    for name, (steps, values) in panel.series.items():
        if len(steps) != len(values):
            raise ArtifactError(f"{panel.title}: {name}: {len(steps)} steps, {len(values)} values")
    return sum(len(steps) for steps, _ in panel.series.values())


def _draw(axes: Axes, panel: Panel, colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, (steps, values) in panel.series.items():
        found = np.asarray(values, np.float64)
        shown = np.isfinite(found) & ((found > 0) | (not panel.logarithmic))
        found, colour = np.where(shown, found, np.nan), colours[name]
        if len(found) > SMOOTHED:
            axes.plot(steps, found, color=colour, linewidth=0.8, alpha=0.25)
            axes.plot(steps, _running_mean(found), color=colour, linewidth=1.8)
        else:
            axes.plot(steps, found, color=colour, marker="o" if len(found) <= 30 else "")
    if panel.logarithmic:
        _make_logarithmic(axes)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel(panel.along)


def _make_logarithmic(axes: Axes) -> None:
    """Put ticks at 1, 2 and 5 of each decade, written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 1000 else (1, 2, 5)))
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


def consistency_chart(
    path: Path, models: Mapping[str, Consistency], *, title: str = "Temporal consistency"
) -> Path:
    """Draw the consistency of each pair of a clip as curves, one a model, as a PNG.

    Left the share of pixels that keep their class along the flow (the warping pixel accuracy of
    Y. Liu's thesis, Adelaide 2021, fig. 5.3), right the mIoU of the two predictions. Where all
    models were measured with a mask, both are over the visible pixels.

    Args:
        path: of the PNG; its folder is made.
        models: what `TemporalConsistency` found on the same pairs, by the name of the model.
        title: the first line.

    Raises:
        ConfigError: no models, or not the same number of pairs.
    """
    if not models:
        raise ConfigError("a chart needs at least one model to show")
    if len({len(each.curve) for each in models.values()}) > 1:
        raise ConfigError(
            "the curves are of different clips: "
            + ", ".join(f"{name} has {len(each.curve)} pairs" for name, each in models.items())
        )
    masked = all(each.visible is not None for each in models.values())
    which = "visible pixels" if masked else "pixels that stay in the frame"

    def panel(words: str, measure: str) -> Panel:
        series = {}
        for name, each in models.items():
            score = each.visible if masked and each.visible is not None else each.whole
            values = [getattr(pair, measure) for pair in each.curve]
            known = [float("nan") if value is None else value for value in values]
            series[f"{name} · TC {score.miou:.3f}"] = range(len(known)), known
        return Panel(words, series, along="pair of frames")

    prefix = "visible_" if masked else ""
    panels = [
        panel(f"{which} that keep their class", f"{prefix}pixels"),
        panel(f"mIoU with the next frame, {which}", f"{prefix}miou"),
    ]
    return curve_chart(path, panels, title=title)
