"""The layout of a sheet: titled columns of pictures, a row a frame, a legend below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from stillroom.stages.pictures.page import (
    FAINT,
    KEY_HEIGHT,
    SMALL,
    SWATCH,
    TEXT,
    TITLE,
    Page,
    fitted,
    text_width,
)
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.pictures.palette import Colour

MARGIN, GAP = 28, 12
WIDEST, NARROWEST = 1880, 720  # of a whole page; the second leaves room for title and legend
LARGEST_TILE, SMALLEST_TILE = 480, 120
BAR_HEIGHT = 44


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of a sheet.

    Attributes:
        image: (H, W, 3) uint8; None draws an empty field with `note` in it.
        note: a line below the picture.
        smooth: interpolate where it is enlarged; label maps keep their squares.
    """

    image: NDArray[np.uint8] | None
    note: str = ""
    smooth: bool = False


@dataclass(frozen=True)
class Entry:
    """One line of a legend: a colour, what it means, and a number or two."""

    colour: Colour
    name: str
    value: str = ""


@dataclass(frozen=True)
class ColourBar:
    """Which value a column's colours mean: 0 at the left, `most` at the right.

    Attributes:
        column: index of the column it stands below.
        colours: (256, 3) uint8.
        most: the value of the last colour.
        mark: a value to mark, with `mark_name`.
    """

    column: int
    colours: NDArray[np.uint8]
    most: float = 1.0
    mark: float | None = None
    mark_name: str = ""


@dataclass(frozen=True)
class Place:
    """Where the picture of a tile lies on a page: its upper left corner, and how wide it may be."""

    left: int
    top: int
    width: int


@dataclass(frozen=True)
class Sheet:
    """A sheet before it is drawn; every row has one tile a column."""

    title: str
    subtitle: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Tile, ...], ...]
    legend_title: str
    legend: tuple[Entry, ...]
    bar: ColourBar | None = None


def draw_sheet(sheet: Sheet, path: Path) -> Path:
    """Write a sheet as a PNG.

    Raises:
        ConfigError: there are no rows, or more than fit into a picture.
    """
    page, _ = lay_out(sheet)
    return page.save(path)


def lay_out(sheet: Sheet) -> tuple[Page, tuple[tuple[Place, ...], ...]]:
    """Draw a sheet on a page, and tell where its pictures are; raises as `draw_sheet`."""
    if not sheet.rows:
        raise ConfigError("a sheet needs at least one frame to show")
    count = len(sheet.columns)
    tile = (WIDEST - 2 * MARGIN - (count - 1) * GAP) // count
    tile = max(SMALLEST_TILE, min(LARGEST_TILE, tile))
    width = max(NARROWEST, 2 * MARGIN + count * tile + (count - 1) * GAP)
    rows = [[fit(one, tile) for one in row] for row in sheet.rows]
    heights = [_row_height(row, tile) for row in rows]
    legend = _Legend(sheet.legend, width - 2 * MARGIN)
    top = MARGIN + TITLE + 30 + TEXT + 12
    below = top + sum(heights) + (BAR_HEIGHT if sheet.bar is not None else 0)
    page = Page(width, below + 14 + legend.height(sheet.legend_title) + MARGIN - 8)
    _draw_titles(page, sheet, tile, top)
    places = []
    for row, tiles, height in zip(sheet.rows, rows, heights, strict=True):
        corners = [(MARGIN + column * (tile + GAP), top) for column in range(count)]
        for one, image, corner in zip(row, tiles, corners, strict=True):
            _draw_tile(page, one, image, corner, (tile, height))
        places.append(tuple(Place(*corner, tile) for corner in corners))
        top += height
    if sheet.bar is not None:
        _draw_bar(page, sheet.bar, MARGIN + sheet.bar.column * (tile + GAP), top, tile)
    legend.draw(page, sheet.legend_title, below + 14)
    return page, tuple(places)


def fit(tile: Tile, width: int) -> NDArray[np.uint8] | None:
    """The tile's image brought to its place: `width` wide, or as high as that is wide."""
    if tile.image is None:
        return None
    image = tile.image
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ArtifactError(f"a picture is (H, W, 3) uint8, got {tuple(image.shape)} {image.dtype}")
    scale = min(width / image.shape[1], width * 1.25 / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    larger = cv2.INTER_CUBIC if tile.smooth else cv2.INTER_NEAREST
    method = cv2.INTER_AREA if scale < 1 else larger
    resized = cv2.resize(np.ascontiguousarray(image), size, interpolation=method)
    return resized.astype(np.uint8, copy=False)


def _row_height(images: Sequence[NDArray[np.uint8] | None], tile: int) -> int:
    tallest = max((image.shape[0] for image in images if image is not None), default=tile // 2)
    return tallest + 5 + SMALL + GAP + 4


def _draw_titles(page: Page, sheet: Sheet, tile: int, top: int) -> None:
    room = page.width - 2 * MARGIN
    page.text(MARGIN, MARGIN - 8, fitted(sheet.title, room, TITLE, bold=True), TITLE, bold=True)
    page.text(MARGIN, MARGIN + TITLE, fitted(sheet.subtitle, room, SMALL), SMALL, FAINT)
    for column, name in enumerate(sheet.columns):
        left = MARGIN + column * (tile + GAP)
        page.text(left, top - TEXT - 8, fitted(name, tile, TEXT, bold=True), TEXT, bold=True)


def _draw_tile(
    page: Page,
    tile: Tile,
    image: NDArray[np.uint8] | None,
    corner: tuple[int, int],
    size: tuple[int, int],
) -> None:
    left, top = corner
    if image is not None:
        page.picture(left, top, image)
        page.text(left, top + image.shape[0] + 5, fitted(tile.note, size[0], SMALL), SMALL, FAINT)
        return
    height = size[1] - (5 + SMALL + GAP + 4)
    page.picture(left, top, np.full((height, size[0], 3), 245, np.uint8))
    middle = (left + size[0] / 2, top + height / 2)
    page.text(*middle, fitted(tile.note, size[0] - 8), colour=FAINT, ha="center", va="center")


def _draw_bar(page: Page, bar: ColourBar, left: int, top: int, width: int) -> None:
    page.picture(left, top, np.repeat(bar.colours[None], 10, axis=0)[
        :, np.linspace(0, 255, width).round().astype(int)
    ])  # fmt: skip
    taken: list[tuple[float, float]] = []
    marks = [] if bar.mark is None else [(bar.mark / bar.most, f"{bar.mark_name} {bar.mark:.2f}")]
    ticks = [(share, f"{share * bar.most:.2g}") for share in (0.0, 1.0, 0.5)]
    for value, words in (*marks, *ticks):
        half = text_width(words, SMALL) / 2
        centre = min(max(value * width, half), width - half)
        if any(centre - half < end + 6 and centre + half > start - 6 for start, end in taken):
            continue  # the mark matters more than the tick it would touch
        taken.append((centre - half, centre + half))
        page.box(left + min(value * width, width - 1), top + 10, 0.5, 5, FAINT)
        page.text(left + centre, top + 18, words, SMALL, FAINT, ha="center")


class _Legend:
    """Entries in as many equal columns as fit, read from top to bottom."""

    def __init__(self, entries: Sequence[Entry], room: int) -> None:
        self.entries = [
            Entry(one.colour, fitted(one.name, min(280, room / 2)), one.value) for one in entries
        ]
        self.name_width = max((text_width(one.name) for one in self.entries), default=0)
        value_width = max((text_width(one.value) for one in self.entries), default=0)
        self.width = SWATCH + 8 + self.name_width + (14 + value_width if value_width else 0) + 32
        columns = max(1, int((room + 32) // self.width))
        self.lines = -(-len(self.entries) // columns)

    def height(self, title: str) -> int:
        return (KEY_HEIGHT + 4 if title else 0) + self.lines * KEY_HEIGHT

    def draw(self, page: Page, title: str, top: int) -> None:
        if title:
            room = page.width - 2 * MARGIN
            page.text(MARGIN, top, fitted(title, room, TEXT, bold=True), TEXT, bold=True)
            top += KEY_HEIGHT + 4
        for position, one in enumerate(self.entries):
            column, line = divmod(position, self.lines)
            left, upper = MARGIN + column * self.width, top + line * KEY_HEIGHT
            colour = tuple(channel / 255 for channel in one.colour)
            page.box(left, upper, SWATCH, SWATCH, colour)
            baseline = upper + SWATCH / 2
            page.text(left + SWATCH + 8, baseline, one.name, va="center_baseline")
            right = left + self.width - 32
            page.text(right, baseline, one.value, colour=FAINT, ha="right", va="center_baseline")
