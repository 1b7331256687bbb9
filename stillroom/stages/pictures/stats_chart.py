"""One page of charts: classes, confidence, and what each threshold keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.evaluate.cache_stats import BINS, THRESHOLDS
from stillroom.stages.pictures.chart import POINT, chart, headed, name_rows, series_colours
from stillroom.stages.pictures.page import FAINT, MARGIN, SMALL, TEXT, fitted
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from stillroom.stages.evaluate.cache_stats import CacheStats

WIDTH, PLOT, BESIDE = 1640, 440, 165  # of the page, of a plot; height beside a row's bars
BAR, BETWEEN, LEAST_HEIGHT = 9, 9, 240
MOST_CLASSES, LONGEST_LABEL = 40, 150
SERIES = ("labels", "pseudo-label", "best of logits")
CURVES = ("kept", "right among the kept")


@dataclass(frozen=True, eq=False)
class StatsRow:
    """One teacher on one source."""

    name: str
    classes: tuple[str, ...]
    stats: CacheStats


def stats_chart(path: Path, rows: Sequence[StatsRow], *, title: str) -> Path:
    """Draw the statistics of a cache as a PNG, a row a teacher and source.

    Raises:
        ConfigError: there are no rows.
    """
    if not rows:
        raise ConfigError("a chart needs at least one teacher's set to show")
    heights = [BESIDE + max(LEAST_HEIGHT, _bars_height(row)) for row in rows]
    with chart(path, WIDTH, sum(heights), title) as figure:
        parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        for row, part in zip(rows, parts, strict=True):
            frames = f"{row.stats.frames} frame{'s' * (row.stats.frames != 1)}"
            words = fitted(f"{row.name}, {frames}", WIDTH - 100)
            part.suptitle(
                words,
                x=MARGIN / 2 / (WIDTH - MARGIN),
                ha="left",
                fontsize=TEXT * POINT,
                color=FAINT,
            )
            classes, confidence, thresholds = part.subplots(1, 3)
            _draw_classes(classes, row)
            _draw_confidence(confidence, row.stats)
            _draw_thresholds(thresholds, row.stats)
    return path


def _bars_height(row: StatsRow) -> int:
    names, shares = _shares(row)
    return len(names) * (len(shares) * BAR + BETWEEN)


def _shares(row: StatsRow) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """Names of the classes shown, and by series the share of its pixels that each has."""
    all_counts = (row.stats.labels, row.stats.pseudo_labels, row.stats.best)
    counts = {name: one for name, one in zip(SERIES, all_counts, strict=True) if one.any()}
    names = list(row.classes)
    together = sum((one[: len(names)] for one in counts.values()), np.zeros(len(names)))
    shown = sorted(np.argsort(-together, kind="stable")[:MOST_CLASSES].tolist())
    listed = [names[index] for index in shown]
    if any(one[255] for one in counts.values()):
        shown, listed = [*shown, 255], [*listed, "none"]
    return listed, {name: one[shown] / one.sum() for name, one in counts.items()}


def _draw_classes(axes: Axes, row: StatsRow) -> None:
    names, shares = _shares(row)
    colours = series_colours(SERIES)
    step = len(shares) * BAR + BETWEEN
    for number, (name, values) in enumerate(shares.items()):
        middles = np.arange(len(names)) * step + BETWEEN / 2 + (number + 0.5) * BAR
        axes.barh(middles, values, height=BAR - 1, color=colours[name])
    shown = [fitted(name, LONGEST_LABEL) for name in names]
    name_rows(axes, [(place + 0.5) * step for place in range(len(names))], shown)
    axes.set_ylim(max(1, len(names)) * step, 0)
    _percent(axes.xaxis)
    headed(axes, "Classes, share of the pixels", {name: colours[name] for name in shares}, PLOT)


def _draw_confidence(axes: Axes, stats: CacheStats) -> None:
    share = stats.confidence / max(1, stats.confidence.sum())
    axes.bar((np.arange(BINS) + 0.5) / BINS, share, width=0.92 / BINS, color="#4d4d4d")
    axes.set_xlim(0, 1)
    axes.set_ylim(0)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("highest class probability")
    _percent(axes.yaxis)
    headed(axes, "Confidence, share of the pixels", {}, PLOT)


def _draw_thresholds(axes: Axes, stats: CacheStats) -> None:
    curves = {CURVES[0]: stats.kept / max(1, stats.pixels)}
    if stats.labelled_kept.any():
        known = np.where(stats.labelled_kept > 0, stats.labelled_kept, 1)
        curves[CURVES[1]] = np.where(stats.labelled_kept > 0, stats.right / known, np.nan)
    colours = series_colours([*SERIES, *CURVES])
    for name, values in curves.items():
        axes.plot(THRESHOLDS, values, color=colours[name], marker="o")
        for step in (0, len(THRESHOLDS) // 2 - 1, len(THRESHOLDS) - 1):
            if np.isfinite(values[step]):
                # Beside each other's curve, not on it.
                highest = all(not one[step] > values[step] for one in curves.values())
                axes.annotate(
                    f"{values[step]:.1%}", (THRESHOLDS[step], values[step]),
                    (0, 7 if highest else -14), textcoords="offset points", ha="center",
                    color=FAINT, fontsize=(SMALL - 1) * POINT,
                )  # fmt: skip
    low = min(float(np.nanmin(values)) for values in curves.values())
    axes.set_xlim(THRESHOLDS[0] - 0.03, THRESHOLDS[-1] + 0.03)
    axes.set_ylim(max(0.0, low - 0.08), 1.04)
    axes.set_xlabel("threshold")
    _percent(axes.yaxis)
    headed(axes, "By the threshold of confidence", {name: colours[name] for name in curves}, PLOT)


def _percent(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
