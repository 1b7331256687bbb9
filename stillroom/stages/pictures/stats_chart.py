"""One page of charts: classes, confidence, and what each threshold keeps."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.evaluate.cache_stats import BINS, THRESHOLDS
from stillroom.stages.pictures.page import (
    FAINT,
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
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from stillroom.stages.evaluate.cache_stats import CacheStats

MARGIN, GAP, FOOT, TICKS = 28, 44, 46, 46
WIDTH = 440  # of each of the three plots
BAR, BETWEEN, LEAST_HEIGHT = 9, 9, 240
MOST_CLASSES, LONGEST_LABEL = 40, 150
SERIES = ("labels", "pseudo-label", "best of logits")
LONE = "#4d4d4d"  # of bars that have no key
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
    label = max(_label_width(row) for row in rows)
    plots = [MARGIN + label, MARGIN + label + WIDTH + GAP + TICKS]
    plots.append(plots[1] + WIDTH + GAP + TICKS)
    heights = [max(LEAST_HEIGHT, len(_shares(row)[0]) * _step(row)) for row in rows]
    head = TEXT + 14 + KEY_HEIGHT + 6
    top = MARGIN + TITLE + 18
    page = Page(
        plots[2] + WIDTH + MARGIN,
        top + sum(heights) + len(rows) * (head + TEXT + 8 + FOOT) + MARGIN // 2,
    )
    room = page.width - 2 * MARGIN
    page.text(MARGIN, MARGIN - 8, fitted(title, room, TITLE, bold=True), TITLE, bold=True)
    for row, height in zip(rows, heights, strict=True):
        frames = f"{row.stats.frames} frame{'s' * (row.stats.frames != 1)}"
        page.text(MARGIN, top, fitted(f"{row.name}, {frames}", room), colour=FAINT)
        top += TEXT + 8
        _draw_row(page, row, plots, (top, head, height), label)
        top += head + height + FOOT
    return page.save(path)


def _draw_row(
    page: Page, row: StatsRow, lefts: list[int], place: tuple[int, int, int], label: int
) -> None:
    top, head, height = place
    names, shares = _shares(row)
    colours = series_colours(SERIES)
    page.text(lefts[0], top, "Classes, share of the pixels", bold=True)
    page.key(lefts[0], top + TEXT + 10, key_lines(list(shares), WIDTH), colours)
    axes = page.axes(lefts[0], top + head, WIDTH, height)
    _draw_classes(axes, shares, colours, height)
    for position, name in enumerate(names):
        middle = top + head + (position + 0.5) * height / max(1, len(names))
        shown = fitted(name, label - 10)
        page.text(lefts[0] - 10, middle, shown, ha="right", va="center_baseline")
    page.text(lefts[1], top, "Confidence, share of the pixels", bold=True)
    _draw_confidence(page.axes(lefts[1], top + head, WIDTH, height), row.stats)
    curves = series_colours([*SERIES, *CURVES])
    drawn = CURVES if row.stats.labelled_kept.any() else CURVES[:1]
    page.text(lefts[2], top, "By the threshold of confidence", bold=True)
    page.key(lefts[2], top + TEXT + 10, key_lines(drawn, WIDTH), curves)
    _draw_thresholds(page.axes(lefts[2], top + head, WIDTH, height), row.stats, curves)


def _label_width(row: StatsRow) -> int:
    longest = max((text_width(name) for name in _shares(row)[0]), default=0)
    return min(LONGEST_LABEL, ceil(longest)) + 10


def _step(row: StatsRow) -> int:
    return len(_shares(row)[1]) * BAR + BETWEEN


def _shares(row: StatsRow) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """Names of the classes shown, and by series the share of its pixels that each has."""
    counts = dict(
        zip(SERIES, (row.stats.labels, row.stats.pseudo_labels, row.stats.best), strict=True)
    )
    counts = {name: one for name, one in counts.items() if one.any()}
    names = list(row.classes)
    seen = sum((one[: len(names)] for one in counts.values()), np.zeros(len(names)))
    shown = list(range(len(names)))
    if len(shown) > MOST_CLASSES:
        shown = sorted(np.argsort(-seen, kind="stable")[:MOST_CLASSES].tolist())
    listed = [names[index] for index in shown]
    if any(one[255] for one in counts.values()):
        shown, listed = [*shown, 255], [*listed, "none"]
    return listed, {name: one[shown] / one.sum() for name, one in counts.items()}


def _draw_classes(
    axes: Axes, shares: dict[str, NDArray[np.float64]], colours: Any, height: int
) -> None:
    lines = max((len(one) for one in shares.values()), default=0)
    axes.set_ylim(max(1, lines), 0)
    thick = (1 - BETWEEN / (BAR * len(shares) + BETWEEN)) / max(1, len(shares)) if shares else 1
    for number, (name, values) in enumerate(shares.items()):
        middles = np.arange(lines) + 0.5 + (number - (len(shares) - 1) / 2) * thick
        axes.barh(middles, values, height=thick * 0.85, color=colours[name])
    axes.set_yticks([])
    _percent(axes.xaxis)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    style_axes(axes)


def _draw_confidence(axes: Axes, stats: CacheStats) -> None:
    share = stats.confidence / max(1, stats.confidence.sum())
    axes.bar((np.arange(BINS) + 0.5) / BINS, share, width=0.92 / BINS, color=LONE)
    axes.set_xlim(0, 1)
    _percent(axes.yaxis)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_xlabel("highest class probability", color=FAINT, fontproperties=font(TEXT))
    style_axes(axes)


def _draw_thresholds(axes: Axes, stats: CacheStats, colours: Any) -> None:
    curves = {CURVES[0]: stats.kept / max(1, stats.pixels)}
    if stats.labelled_kept.any():
        known = np.where(stats.labelled_kept > 0, stats.labelled_kept, 1)
        curves[CURVES[1]] = np.where(stats.labelled_kept > 0, stats.right / known, np.nan)
    for name, values in curves.items():
        axes.plot(THRESHOLDS, values, color=colours[name], marker="o", markersize=4, linewidth=1.6)
        for step in (0, len(THRESHOLDS) // 2 - 1, len(THRESHOLDS) - 1):
            if np.isfinite(values[step]):
                # Beside each other's curve, not on it.
                highest = all(not one[step] > values[step] for one in curves.values())
                axes.annotate(
                    f"{values[step]:.1%}", (THRESHOLDS[step], values[step]),
                    (0, 7 if highest else -14), textcoords="offset points", ha="center",
                    color=FAINT, fontproperties=font(SMALL - 1),
                )  # fmt: skip
    axes.set_xlim(THRESHOLDS[0] - 0.03, THRESHOLDS[-1] + 0.03)
    low = min(float(np.nanmin(values)) for values in curves.values())
    axes.set_ylim(max(0.0, low - 0.08), 1.04)
    _percent(axes.yaxis)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_xlabel("threshold", color=FAINT, fontproperties=font(TEXT))
    style_axes(axes)


def _percent(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
