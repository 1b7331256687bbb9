"""A sheet of mirrored frames: the teacher on them, and its cached output mirrored, worst first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from stillroom.stages.pictures.heat import heat
from stillroom.stages.pictures.palette import Colour, colourise, palette
from stillroom.stages.pictures.sheet import ColourBar, Entry, Sheet, Tile, draw_sheet
from stillroom.stages.pictures.tiles import class_legend, show_padding
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.evaluate.equivariance import Seen

COLUMNS = ("mirrored frame", "teacher on it", "cached output, mirrored", "where they differ", "KL")
DIFFERS: Colour = (28, 31, 36)  # no class has it: `palette` keeps away from black
BRIGHTEST = 0.99  # of the cells: a few that are worse than all others leave the others visible


@dataclass(frozen=True, eq=False)
class MirroredRow:
    """One frame of the sheet."""

    frame_id: str
    seen: Seen

    @property
    def mean_kl(self) -> float:
        """Nats a cell, over those that show the frame."""
        shown = self.seen.kl[self.seen.mask]
        return float(shown.mean()) if shown.size else 0.0


def equivariance_sheet(
    path: Path, rows: Sequence[MirroredRow], classes: Sequence[str], *, title: str
) -> Path:
    """Draw mirrored frames, the one with the highest mean KL first, as a PNG.

    Raises:
        ConfigError: there are no rows.
    """
    if not rows:
        raise ConfigError("a sheet needs at least one frame to show")
    ordered = sorted(rows, key=lambda row: -row.mean_kl)
    colours = palette(classes)
    maps = [(row.seen.classes(row.seen.live), row.seen.classes(row.seen.said)) for row in ordered]
    most = _most_nats(ordered)
    legend, left_out = class_legend(classes, colours, [one for pair in maps for one in pair])
    return draw_sheet(
        Sheet(
            title=title,
            subtitle=f"{len(ordered)} frame{'s' * (len(ordered) > 1)}, the worst first; KL of the "
            f"teacher live against its cached output, from 0 to {nats(most)} and more",
            columns=COLUMNS,
            rows=tuple(
                _tiles(row, live, said, colours, most)
                for row, (live, said) in zip(ordered, maps, strict=True)
            ),
            legend_title="Classes" + (f" ({left_out})" if left_out else ""),
            legend=(*legend, Entry(DIFFERS, "another class")),
            bar=ColourBar(COLUMNS.index("KL"), heat(), most),
        ),
        path,
    )


def _tiles(
    row: MirroredRow,
    live: NDArray[np.uint8],
    said: NDArray[np.uint8],
    colours: NDArray[np.uint8],
    most: float,
) -> tuple[Tile, ...]:
    seen = row.seen
    shown = _at_pixels(seen.mask.astype(np.float32), seen) > 0.5
    differ = (live != said) & shown
    share = float(differ.sum() / max(1, shown.sum()))
    pale = np.asarray(255 - (255 - _grey(seen.image)) * 0.25, np.uint8)
    pale[differ] = DIFFERS
    steps = (_at_pixels(seen.kl.astype(np.float32), seen) / most).clip(0, 1) * 255
    warm = heat()[steps.round().astype(np.uint8)]
    return (
        Tile(seen.image, row.frame_id, smooth=True),
        Tile(_hidden(colourise(live, colours), shown), _accuracy(live, seen.label)),
        Tile(_hidden(colourise(said, colours), shown), _accuracy(said, seen.label)),
        Tile(_hidden(pale, shown), f"{share:.1%} of the pixels"),
        Tile(_hidden(warm, shown), f"mean {nats(row.mean_kl)}"),
    )


def _most_nats(rows: Sequence[MirroredRow]) -> float:
    """What the brightest colour stands for: nearly the highest KL of a cell that shows a frame."""
    cells = np.concatenate([row.seen.kl[row.seen.mask] for row in rows])
    most = float(np.quantile(cells, BRIGHTEST)) if cells.size else 0.0
    return most if most > 0 else float(cells.max(initial=0.0)) or 1.0


def nats(value: float) -> str:
    """A KL divergence in three digits, 0.123 nats, or as a power of ten: 1.2e-05 nats."""
    small = 0 < value < 0.01
    return f"{value:.1e} nats" if small else f"{value:.3f} nats"


def _accuracy(made: NDArray[np.uint8], label: NDArray[np.uint8] | None) -> str:
    counted = None if label is None else label != 255
    if label is None or counted is None or not counted.any():
        return ""
    return f"{float((made == label)[counted].mean()):.1%} right"


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    grey = image.astype(np.float64) @ (0.299, 0.587, 0.114)
    return np.repeat(grey[..., None], 3, axis=2)


def _at_pixels(grid: NDArray[np.float32], seen: Seen) -> NDArray[np.float32]:
    """A grid of cells at the frame's pixels, each cell a square."""
    height, width = seen.image.shape[:2]
    tall, wide = grid.shape[0] * seen.stride, grid.shape[1] * seen.stride
    full = cv2.resize(grid, (wide, tall), interpolation=cv2.INTER_NEAREST)
    return np.asarray(full[:height, :width], np.float32)


def _hidden(picture: NDArray[np.uint8], shown: NDArray[np.bool_]) -> NDArray[np.uint8]:
    rows, columns = shown.any(1), shown.any(0)
    if rows.all() and columns.all():
        return picture
    # Mirrored padding lies at the left: what the sheet greys out is told by the mask.
    empty = show_padding(picture, (0, 0))
    return np.where(shown[..., None], picture, empty).astype(np.uint8)
