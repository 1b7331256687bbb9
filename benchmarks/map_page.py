"""The layout of pictures of losses: maps of frames in titled columns, colour bars below them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from stillroom.stages.pictures.legend import ColourBar, Entry
from stillroom.stages.pictures.page import FAINT, INK
from stillroom.stages.pictures.palette import PADDING, heat
from stillroom.stages.pictures.sheet import Cell, FrameRow, Sheet

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TILE = (240, 180)  # width and height: two pixels a position of CamVid's grid at stride 4
STEPS = 64  # of a scale, in what is written


@dataclass(frozen=True)
class Scale:
    """Which values a column's colours mean.

    unit: what is below the bar
    log: by the logarithm; low is above 0
    signed: blue below 0, white, red above
    more, less: whether there are values above high and below low, of the same colours as these
    """

    low: float
    high: float
    unit: str
    log: bool = False
    signed: bool = False
    more: bool = False
    less: bool = False

    @property
    def colours(self) -> NDArray[np.uint8]:
        """(256, 3), from low to high."""
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

    def bar(self) -> ColourBar:
        """Explain the colours; of the values written there the ends matter most."""
        if self.log:
            first, last = np.ceil(np.log10(self.low)), np.floor(np.log10(self.high))
            at = [10.0**power for power in np.arange(first, last + 1)]
        else:
            at = [self.low, (self.low + self.high) / 2, self.high]
        places = self.share(np.asarray(at, np.float64))
        written = [_written(value) for value in at]
        if self.more:
            written[-1] = f"≥ {written[-1]}"
        if self.less:
            written[0] = f"≤ {written[0]}"
        ticks = list(zip(places.tolist(), written, strict=True))
        return ColourBar(self.colours, (ticks[0], ticks[-1], *ticks[1:-1]), self.unit)


def _written(value: float) -> str:
    if not value or 1e-3 <= abs(value) < 1e4:
        return f"{value:,.4g}"
    power = str(round(np.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{power}"


def scale_of(values: object, unit: str, *, signed: bool = False, share: float = 99.0) -> Scale:
    """A scale from 0 to about the largest of some values, at 1, 2, 3 or 5 of a decade.

    share: percentile that the scale ends at, before it is rounded up
    """
    found = np.concatenate([np.abs(np.asarray(one, np.float64)).ravel() for one in values])
    found = found[np.isfinite(found)]
    reached = max(float(np.percentile(found, share)), 1e-12)
    decade = 10.0 ** np.floor(np.log10(reached))
    high = decade * next(step for step in (1, 2, 3, 5, 10) if step * decade >= reached * (1 - 1e-9))
    more = bool(found.max() > high)
    low = -high if signed else 0.0
    return Scale(low, high, unit, signed=signed, more=more, less=signed and more)


@dataclass(frozen=True, eq=False)
class Map:
    """One field of a picture: an image (H, W, 3), or values (h, w) in the column's colours.

    shown: None leaves the field empty
    marks: (row, column, name) of places on the values' grid, or on `grid` for an image
    """

    shown: NDArray | None
    note: str = ""
    marks: tuple[tuple[int, int, str], ...] = ()
    grid: tuple[int, int] | None = None

    def painted(self, scale: Scale | None) -> NDArray[np.uint8]:
        """Paint it as large as its tile."""
        if self.shown is None:
            return np.full((TILE[1], TILE[0], 3), 245, np.uint8)
        values = self.shown
        image = values if scale is None else scale.paint(np.asarray(values, np.float64))
        smaller = image.shape[1] > TILE[0]
        method = cv2.INTER_AREA if smaller and scale is None else cv2.INTER_NEAREST
        image = cv2.resize(np.ascontiguousarray(image), TILE, interpolation=method)
        height, width = self.grid or values.shape[:2]
        for row, column, name in self.marks:
            _mark(image, ((column + 0.5) / width, (row + 0.5) / height), name)
        return image


def _mark(image: NDArray[np.uint8], place: tuple[float, float], name: str) -> None:
    x, y = (round(share * side) for share, side in zip(place, TILE, strict=True))
    for colour, thick in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.circle(image, (x, y), 7, colour, thick, cv2.LINE_AA)
    if name:
        cv2.rectangle(image, (x + 11, y - 16), (x + 25, y), (0, 0, 0), -1)
        cv2.putText(image, name, (x + 13, y - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1,
                    cv2.LINE_AA)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture before it is drawn; scales and maps are one a column, None for images."""

    title: str
    words: str
    columns: tuple[str, ...]
    scales: tuple[Scale | None, ...]
    rows: tuple[tuple[Map, ...], ...]
    classes: tuple[tuple[str, tuple[int, int, int]], ...] = ()


def draw(picture: Picture, path: Path) -> Path:
    """Write a picture as a PNG of at most 256 colours."""
    rows = []
    for maps in picture.rows:
        first, *others = (
            Cell("painting", one.painted(scale), one.note)
            for one, scale in zip(maps, picture.scales, strict=True)
        )
        rows.append(FrameRow(first.note, first.array, others))
    scales = zip(picture.columns, picture.scales, strict=True)
    Sheet(
        picture.title,
        picture.columns,
        rows,
        legend=[Entry(colour, name) for name, colour in picture.classes],
        bars={name: scale.bar() for name, scale in scales if scale is not None},
        subtitle=picture.words,
        tile=TILE[0],
    ).save(path)
    quiet = [(255, 255, 255), PADDING, *(tuple(bytes.fromhex(c[1:])) for c in (INK, FAINT))]
    of_classes = [of for _, of in picture.classes]
    return few_colours(
        path, np.concatenate([np.array(quiet + of_classes), *scale_colours(picture)])
    )


def scale_colours(picture: Picture) -> list[NDArray[np.uint8]]:
    """Some colours of each kind of scale in a picture."""
    kinds = {scale.signed: scale.colours for scale in picture.scales if scale is not None}
    return [colours[np.linspace(0, 255, STEPS).round().astype(int)] for colours in kinds.values()]


def few_colours(path: Path, kept: NDArray) -> Path:
    """Bring a PNG to a palette of 256, some of them given (N, 3): a third of the bytes."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    rest = 256 - len(kept)
    found = image.quantize(rest, Image.Quantize.MEDIANCUT, dither=0).getpalette()[: 3 * rest]
    palette = np.concatenate([kept, np.reshape(found, (-1, 3))]).astype(np.float32)  # (K, 3)
    pixels = np.asarray(image)
    colours, which = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    # By hand: Pillow's own search takes close colours for the same, and white for a near grey.
    apart = [np.square(palette - colour).sum(axis=1).argmin() for colour in colours]
    small = Image.fromarray(np.array(apart, np.uint8)[which].reshape(pixels.shape[:2]), mode="P")
    small.putpalette(palette.astype(np.uint8).ravel().tolist())
    small.save(path, format="PNG", optimize=True)
    return path
