"""A sheet of frames: a row a frame, titled columns of pictures with captions, a legend below."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from stillroom.stages.pictures.legend import Entry, Legend, class_entries
from stillroom.stages.pictures.page import (
    FAINT,
    MARGIN,
    SMALL,
    TEXT,
    TITLE,
    Page,
    fitted,
    wrapped,
    write_png,
)  # fmt: skip
from stillroom.stages.pictures.palette import PADDING, WHITE, palette
from stillroom.stages.pictures.picture_kinds import PICTURES, PictureContext
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.pictures.legend import ColourBar

    Image = NDArray[np.uint8]

GAP = 12
WIDEST, NARROWEST = 1880, 720  # of a whole page; the second leaves room for title and legend
LARGEST_TILE, SMALLEST_TILE = 480, 120
NOTE, LINE = 33, 17  # heights below a picture, and of a line of the subtitle


@dataclass(frozen=True, eq=False)
class Cell:
    """What a sheet shows of a frame in one column.

    Attributes:
        kind: of the picture, a key of `PICTURES`.
        array: None leaves the field empty, with the note in it.
        note: a line below the picture; the caption of its kind if left out.
        stride: pixels to a position of the array's grid.
    """

    kind: str
    array: NDArray[Any] | None
    note: str | None = None
    stride: int = 1


@dataclass(frozen=True, eq=False)
class FrameRow:
    """One frame of a sheet.

    Attributes:
        frame_id: its name, below the frame.
        image: (H, W, 3) uint8, RGB.
        cells: what is shown beside the frame, one a column.
        valid: (height, width) of the part that is no padding, or its mask; None for all of it.
    """

    frame_id: str
    image: Image
    cells: Sequence[Cell]
    valid: tuple[int, int] | NDArray[np.bool_] | None = None

    @cached_property
    def shown(self) -> NDArray[np.bool_]:
        """(H, W), False where the frame is padding."""
        if isinstance(self.valid, np.ndarray):
            return self.valid
        shown = np.zeros(self.image.shape[:2], bool)
        height, width = self.valid or self.image.shape[:2]
        shown[:height, :width] = True
        return shown


@dataclass(frozen=True)
class Sheet:
    """A sheet of frames before it is drawn.

    Attributes:
        title: the first line.
        columns: titles; the first of the frames. A column without a picture is left out.
        rows: the frames.
        classes: names of the classes 0..C-1, where a column shows them.
        legend: what other colours mean.
        iou: of each class, None where it is absent; by model.
        counts: pixels by class, for a legend that cannot name all; those of this sheet if left out.
        threshold: of pseudo-labels, marked on the colour bar of confidence.
        bars: of columns by title, beside those that kinds of pictures have.
        subtitle: the second line; how many frames there are if left out.
        tile: width of a picture in pixels; what fits the page if left out.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[FrameRow]
    classes: Sequence[str] = ()
    legend: Sequence[Entry] = ()
    iou: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    counts: NDArray[np.int64] | None = None
    threshold: float | None = None
    bars: Mapping[str, ColourBar] = field(default_factory=dict)
    subtitle: str | None = None
    tile: int | None = None

    def save(self, path: Path) -> Path:
        """Write it as a PNG; raises as `draw`."""
        return write_png(path, self.draw().image)

    def draw(self) -> Page:
        """Draw it.

        Raises:
            ConfigError: there are no rows, or more than fit into a picture.
            ArtifactError: arrays that do not fit together.
        """
        columns = _columns(self)
        tiles = [tile for column in columns for tile in column.tiles]
        fair = (WIDEST - 2 * MARGIN + GAP) // len(columns) - GAP
        side = self.tile or max(SMALLEST_TILE, min(LARGEST_TILE, fair))
        width = max(NARROWEST, 2 * MARGIN + len(columns) * (side + GAP) - GAP)
        room = width - 2 * MARGIN
        images = [[tile.scaled(side) for tile in column.tiles] for column in columns]
        heights = [
            max((one.shape[0] for one in row if one is not None), default=side // 2)
            for row in zip(*images, strict=True)
        ]
        lines = wrapped(counted(self.rows) if self.subtitle is None else self.subtitle, room)
        legend = Legend(*_legend(self, tiles), room)
        top = MARGIN + TITLE + LINE * len(lines) + TEXT + 22
        bars = max((column.bar.height for column in columns if column.bar), default=0)
        below = top + sum(heights) + NOTE * len(heights) + bars + 14
        page = Page(width, below + legend.height + MARGIN - 8)
        page.text(MARGIN, MARGIN - 10, fitted(self.title, room, TITLE, bold=True), TITLE, bold=True)
        for number, line in enumerate(lines):
            page.text(MARGIN, MARGIN + TITLE - 1 + number * LINE, line, SMALL, FAINT)
        lefts = [MARGIN + number * (side + GAP) for number in range(len(columns))]
        for left, column in zip(lefts, columns, strict=True):
            page.text(left, top - TEXT - 9, fitted(column.title, side, bold=True), bold=True)
        for left, column, scaled in zip(lefts, columns, images, strict=True):
            column.draw(page, left, top, side, scaled, heights)
        legend.draw(page, below)
        return page


def counted(rows: Sequence[FrameRow], what: str = "frame") -> str:
    """Tell how many frames of what size there are."""
    sizes = sorted({row.image.shape[:2] for row in rows}, reverse=True)
    shown = ", ".join(f"{height}x{width}" for height, width in sizes[:3])
    more = ", …" if len(sizes) > 3 else ""
    return f"{len(rows)} {what}{'s' if len(rows) > 1 else ''}, {shown}{more} pixels"


class _Tile:
    """A cell with its picture, (H, W, 3) uint8; None where it is empty."""

    def __init__(self, row: FrameRow, cell: Cell, title: str, context: PictureContext) -> None:
        self.cell, self.context, self.kind = cell, context, PICTURES[cell.kind]
        self.note, self.picture = cell.note or "", None
        if cell.array is None:
            return
        try:
            picture = self.kind.paint(cell.array, context)
        except ArtifactError as error:
            raise ArtifactError(f"{row.frame_id}: {title}: {error}") from error
        expected = (*context.shown.shape, 3)
        if picture.shape != expected or picture.dtype != np.uint8 or not picture.size:
            raise ArtifactError(
                f"{row.frame_id}: {title} {cell.array.shape} {cell.array.dtype} does not cover the "
                f"frame {row.image.shape[:2]}"
            )
        if cell.note is None:
            self.note = self.kind.caption(cell.array, context)
        self.picture = np.where(context.shown[..., None], picture, np.array(PADDING, np.uint8))

    def class_map(self) -> Image | None:
        """Return the classes that it shows, (N,) without padding; None where it shows none."""
        if self.cell.array is None or self.kind.classes is None:
            return None
        return self.kind.classes(self.cell.array, self.context)[self.context.shown]

    def scaled(self, width: int) -> Image | None:
        """Bring the picture to its place: `width` wide, or as high as that is wide."""
        if self.picture is None:
            return None
        height, across = self.picture.shape[:2]
        scale = min(width / across, width * 1.25 / height)
        size = (max(1, round(across * scale)), max(1, round(height * scale)))
        larger = cv2.INTER_CUBIC if self.kind.smooth else cv2.INTER_NEAREST
        method = cv2.INTER_AREA if scale < 1 else larger
        return np.asarray(cv2.resize(self.picture, size, interpolation=method), np.uint8)


@dataclass(frozen=True)
class _Column:
    title: str
    tiles: list[_Tile]
    bar: ColourBar | None

    def draw(
        self, page: Page, left: int, top: int, width: int, images: Sequence[Image | None],
        heights: Sequence[int],
    ) -> None:  # fmt: skip
        for tile, image, height in zip(self.tiles, images, heights, strict=True):
            if image is None:
                page.picture(left, top, np.full((height, width, 3), 245, np.uint8))
                note = fitted(tile.note, width - 8)
                page.text(left + width / 2, top + height / 2, note, colour=FAINT, anchor="mm")
            else:
                page.picture(left, top, image)
                note = fitted(tile.note, width, SMALL)
                page.text(left, top + image.shape[0] + 5, note, SMALL, FAINT)
            top += height + NOTE
        if self.bar is not None:
            self.bar.draw(page, left, top, width)


def _columns(sheet: Sheet) -> list[_Column]:
    if not sheet.rows:
        raise ConfigError("a sheet needs at least one frame to show")
    frames = [Cell("photo", row.image, row.frame_id) for row in sheet.rows]
    cells_of = zip(*(row.cells for row in sheet.rows), strict=True)
    columns, colours = [], palette(sheet.classes)
    for title, cells in zip(sheet.columns, (frames, *cells_of), strict=True):
        arrays = [cell.array for cell in cells if cell.array is not None]
        if arrays:
            kind = PICTURES[cells[0].kind]
            most = kind.most(arrays)
            tiles = [
                _Tile(
                    row,
                    cell,
                    title,
                    PictureContext(row.shown, colours, row.image, cell.stride, most),
                )
                for row, cell in zip(sheet.rows, cells, strict=True)
            ]
            bar = kind.bar(most, sheet.threshold) if kind.bar else sheet.bars.get(title)
            columns.append(_Column(title, tiles, bar))
    return columns


def _legend(sheet: Sheet, tiles: Sequence[_Tile]) -> tuple[str, list[Entry]]:
    """Title and entries: classes, what 255 means, other colours, padding."""
    title, entries = "", list[Entry]()
    maps = [(tile.kind, made) for tile in tiles if (made := tile.class_map()) is not None]
    if maps:
        counts = sheet.counts
        if counts is None:
            counts = np.sum([np.bincount(made, minlength=256) for _, made in maps], axis=0)
        title, entries = class_entries(sheet.classes, counts, sheet.iou)
    for colour, name in dict.fromkeys(kind.unlabelled for kind, made in maps if IGNORE in made):
        if colour == WHITE and sheet.threshold is not None:
            name += f" (below {sheet.threshold:.2f})"
        entries.append(Entry(colour, name))
    entries += sheet.legend
    if any(not tile.context.shown.all() for tile in tiles):
        entries.append(Entry(PADDING, "padding"))
    return title, entries
