"""The layout of pictures of losses: maps of frames in titled columns, colour bars below them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillroom.stages.evaluate.heat import heat
from stillroom.stages.evaluate.page import FAINT, KEY_HEIGHT, SMALL, TEXT, TITLE, Page, key_lines
from stillroom.stages.evaluate.page import fitted, text_width
from stillroom.stages.evaluate.tiles import PADDING

MARGIN, GAP = 20, 12
TILE = (240, 180)  # width and height: two pixels a cell of CamVid's grid at stride 4
NOTE, BAR, LINE = 24, 58, 17
MOST_COLOURS = 256  # of a picture: what is drawn is a document's, and small


@dataclass(frozen=True)
class Scale:
    """Which values a column's colours mean.

    unit: what is below the bar
    log: by the logarithm; low is above 0
    signed: blue below 0, white, red above
    more: whether there are values above high, which are as bright
    """

    low: float
    high: float
    unit: str
    log: bool = False
    signed: bool = False
    more: bool = False

    @property
    def colours(self) -> NDArray[np.uint8]:
        if not self.signed:
            return heat()
        from matplotlib import colormaps

        return np.asarray(colormaps["RdBu_r"](np.arange(256))[:, :3] * 255, np.uint8)

    def share(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where values lie between low and high, 0..1."""
        low, high = self.low, self.high
        if self.log:
            low, high, values = np.log(low), np.log(high), np.log(np.maximum(values, low))
        return ((values - low) / (high - low)).clip(0, 1)

    def paint(self, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Values (h, w) in colour; grey where there is none."""
        missing = ~np.isfinite(values)
        share = self.share(np.where(missing, self.high, values))
        painted = self.colours[(share * 255).round().astype(np.uint8)]
        painted[missing] = PADDING
        return painted

    def ticks(self) -> list[tuple[float, str]]:
        """Places on the bar, 0..1, and what is written there."""
        if self.log:
            first, last = np.ceil(np.log10(self.low)), np.floor(np.log10(self.high))
            at = [10.0**power for power in np.arange(first, last + 1, max(1, (last - first) // 3))]
        else:
            at = [self.low, (self.low + self.high) / 2, self.high]
        places = self.share(np.asarray(at, np.float64))
        written = [f"{value:,.3g}" if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.0e}"
                   for value in at]  # fmt: skip
        if self.more:
            written[-1] = f"≥ {written[-1]}"
        return list(zip(places.tolist(), written, strict=True))


def scale_of(values: object, unit: str, *, signed: bool = False, share: float = 99.0) -> Scale:
    """A scale from 0 to about the largest of some values, at 1, 2 or 5 of a decade.

    share: percentile that the scale ends at, before it is rounded up
    """
    found = np.concatenate([np.abs(np.asarray(one, np.float64)).ravel() for one in values])
    found = found[np.isfinite(found)]
    reached = max(float(np.percentile(found, share)), 1e-12)
    decade = 10.0 ** np.floor(np.log10(reached))
    high = decade * next(step for step in (1, 2, 5, 10) if step * decade >= reached * (1 - 1e-9))
    return Scale(-high if signed else 0.0, high, unit, signed=signed, more=bool(found.max() > high))


@dataclass(frozen=True, eq=False)
class Cell:
    """One field of a picture: an image (H, W, 3), or values (h, w) in the column's colours.

    marks: (row, column, name) of places on the values' grid, or on `grid` for an image
    """

    shown: NDArray
    note: str = ""
    marks: tuple[tuple[int, int, str], ...] = ()
    grid: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture before it is drawn; scales and cells are one a column, None for images."""

    title: str
    lines: tuple[str, ...]
    columns: tuple[str, ...]
    scales: tuple[Scale | None, ...]
    rows: tuple[tuple[Cell, ...], ...]
    classes: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    alt: str = ""


def draw(picture: Picture, path: Path) -> Path:
    """Write a picture as a PNG of at most 256 colours."""
    count = len(picture.columns)
    width = 2 * MARGIN + count * TILE[0] + (count - 1) * GAP
    key = key_lines([name for name, _ in picture.classes], width - 2 * MARGIN)
    key = key if picture.classes else []
    top = MARGIN + TITLE + 6 + LINE * len(picture.lines) + 14 + TEXT + 8
    bottom = top + len(picture.rows) * (TILE[1] + NOTE)
    bars = BAR if any(picture.scales) else 0
    page = Page(width, bottom + bars + len(key) * KEY_HEIGHT + MARGIN - 8)
    page.text(MARGIN, MARGIN - 8, picture.title, TITLE, bold=True)
    for number, words in enumerate(picture.lines):
        page.text(MARGIN, MARGIN + TITLE + 6 + number * LINE, words, SMALL, FAINT)
    for column, (name, scale) in enumerate(zip(picture.columns, picture.scales, strict=True)):
        left = MARGIN + column * (TILE[0] + GAP)
        page.text(left, top - TEXT - 8, fitted(name, TILE[0], TEXT, bold=True), bold=True)
        for number, row in enumerate(picture.rows):
            _draw_cell(page, row[column], scale, left, top + number * (TILE[1] + NOTE))
        if scale is not None:
            _draw_bar(page, scale, left, bottom)
    colours = {name: "#{:02x}{:02x}{:02x}".format(*of) for name, of in picture.classes}
    page.key(MARGIN, bottom + bars, key, colours)
    page.save(path)
    return few_colours(path)


def few_colours(path: Path) -> Path:
    """Bring a PNG to a palette: a third of the bytes."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(MOST_COLOURS, Image.Quantize.MEDIANCUT, dither=0)
    small.save(path, format="PNG", optimize=True)
    return path


def _draw_cell(page: Page, cell: Cell, scale: Scale | None, left: int, top: int) -> None:
    image = cell.shown if scale is None else scale.paint(np.asarray(cell.shown, np.float64))
    smaller = image.shape[1] > TILE[0]
    method = cv2.INTER_AREA if smaller and scale is None else cv2.INTER_NEAREST
    image = cv2.resize(np.ascontiguousarray(image), TILE, interpolation=method)
    height, width = cell.grid or cell.shown.shape[:2]
    for row, column, name in cell.marks:
        place = (round((column + 0.5) * TILE[0] / width), round((row + 0.5) * TILE[1] / height))
        for colour, thick in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            cv2.circle(image, place, 7, colour, thick, cv2.LINE_AA)
            corner = (place[0] + 10, place[1] - 8)
            cv2.putText(image, name, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thick - 1,
                        cv2.LINE_AA)  # fmt: skip
    page.picture(left, top, image)
    page.text(left, top + TILE[1] + 4, fitted(cell.note, TILE[0], SMALL), SMALL, FAINT)


def _draw_bar(page: Page, scale: Scale, left: int, top: int) -> None:
    steps = np.linspace(0, 255, TILE[0]).round().astype(int)
    page.picture(left, top + 2, np.repeat(scale.colours[steps][None], 8, axis=0))
    for place, words in scale.ticks():
        half = text_width(words, SMALL) / 2
        page.box(left + min(place * TILE[0], TILE[0] - 1), top + 11, 0.5, 4, FAINT)
        centre = min(max(place * TILE[0], half), TILE[0] - half)
        page.text(left + centre, top + 17, words, SMALL, FAINT, ha="center")
    page.text(left + TILE[0] / 2, top + 33, fitted(scale.unit, TILE[0], SMALL), SMALL, FAINT,
              ha="center")  # fmt: skip
