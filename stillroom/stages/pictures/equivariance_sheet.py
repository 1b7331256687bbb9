"""A sheet of mirrored frames: the teacher on them, and its cached output mirrored, worst first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.pictures.legend import Entry
from stillroom.stages.pictures.prediction_sheet import greyed
from stillroom.stages.pictures.sheet import Cell, FrameRow, Sheet
from stillroom.storage_specs.artifacts import IGNORE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.evaluate.equivariance import ViewReading
    from stillroom.stages.pictures.palette import Colour

COLUMNS = ("mirrored frame", "teacher on it", "cached output, mirrored", "where they differ", "KL")
DIFFERS: Colour = (28, 31, 36)  # no class has it: `palette` keeps away from black


def equivariance_sheet(
    path: Path, readings: Sequence[ViewReading], classes: Sequence[str], *, title: str
) -> Path:
    """Draw mirrored frames, the one with the highest mean KL first, as a PNG.

    Raises:
        ConfigError: there are no frames.
    """
    rows = [_frame_row(one) for one in sorted(readings, key=lambda one: -one.mean_kl)]
    subtitle = (
        f"{len(rows)} frame{'s' * (len(rows) > 1)}, the worst first; KL of the teacher live "
        "against its cached output, in nats"
    )
    legend = [Entry(DIFFERS, "another class")]
    return Sheet(title, COLUMNS, rows, classes, legend, subtitle=subtitle).save(path)


def _frame_row(reading: ViewReading) -> FrameRow:
    size = reading.image.shape[:2]
    shown = reading.mask.repeat(reading.stride, 0).repeat(reading.stride, 1)[: size[0], : size[1]]
    live, cached = reading.classes(reading.live), reading.classes(reading.cached)
    differ = (live != cached) & shown
    marked = np.asarray((greyed(reading.image) + 255) / 2, np.uint8)
    marked[differ] = DIFFERS
    share = float(differ.sum() / max(1, shown.sum()))
    kl = np.where(reading.mask, reading.kl, np.nan)
    cells = (
        Cell("classes", live, _accuracy(live, reading.label)),
        Cell("classes", cached, _accuracy(cached, reading.label)),
        Cell("painting", marked, f"{share:.1%} of the pixels"),
        Cell("squares", kl, f"mean {_nats(reading.mean_kl)}", reading.stride),
    )
    return FrameRow(reading.frame_id, reading.image, cells, shown)


def _nats(value: float) -> str:
    """Write a KL divergence in three digits, 0.123 nats, or as a power of ten: 1.2e-05 nats."""
    return f"{value:.1e} nats" if 0 < value < 0.01 else f"{value:.3f} nats"


def _accuracy(made: NDArray[np.uint8], label: NDArray[np.uint8] | None) -> str:
    known = None if label is None else label != IGNORE
    if known is None or not known.any():
        return ""
    return f"{float((made == label)[known].mean()):.1%} right"
