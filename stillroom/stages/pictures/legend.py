"""What explains the colours of a sheet: a legend below it, a bar below a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stillroom.stages.pictures.page import FAINT, MARGIN, SMALL, fitted, text_width
from stillroom.stages.pictures.palette import heat, palette

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from stillroom.stages.pictures.page import Page
    from stillroom.stages.pictures.palette import Colour

MOST_CLASSES = 60  # with more classes than this, the legend names only those that can be seen
SWATCH, LINE, APART = 14, 22, 32


class Entry(NamedTuple):
    """A colour, what it means, and a number or two."""

    colour: Colour
    name: str
    value: str = ""


def class_entries(
    classes: Sequence[str],
    counts: NDArray[np.int64],
    iou: Mapping[str, Sequence[float | None]],
) -> tuple[str, list[Entry]]:
    """Title and entries of the classes; of more than 60, those that can be seen.

    Args:
        classes: their names.
        counts: pixels by class.
        iou: of each class, None where it is absent; by model.
    """
    title, named = "Classes", list(range(len(classes)))
    if len(classes) > MOST_CLASSES:
        named = [index for index in named if counts[index]]
        title += f" ({len(named)} of {len(classes)}, those on this sheet)"
    if iou:
        title += f" with the IoU of {' / '.join(iou)}"

    def entry(index: int) -> Entry:
        red, green, blue = palette(classes)[index].tolist()
        values = [of[index] for of in iou.values()]
        shown = ["absent" if value is None else f"{value:.3f}" for value in values]
        return Entry((red, green, blue), classes[index], " / ".join(shown))

    return title, [entry(index) for index in named]


class Legend:
    """Entries in as many equal columns as fit, read from top to bottom."""

    def __init__(self, title: str, entries: Sequence[Entry], room: int) -> None:
        self._title = fitted(title, room, bold=True)
        self._entries = [one._replace(name=fitted(one.name, min(280, room / 2))) for one in entries]
        name = max((text_width(one.name) for one in self._entries), default=0)
        value = max((text_width(one.value) for one in self._entries), default=0)
        self._width = SWATCH + 8 + name + (14 + value if value else 0) + APART
        self._lines = -(-len(entries) // max(1, int((room + APART) // self._width)))
        self.height = (LINE + 4 if title else 0) + self._lines * LINE

    def draw(self, page: Page, top: int) -> None:
        """Draw it on a page."""
        if self._title:
            page.text(MARGIN, top, self._title, bold=True)
            top += LINE + 4
        for position, one in enumerate(self._entries):
            column, line = divmod(position, self._lines)
            left, upper = MARGIN + column * self._width, top + line * LINE
            page.box(left, upper, SWATCH, SWATCH, one.colour, "#9aa1ac")
            page.text(left + SWATCH + 8, upper + SWATCH / 2, one.name, anchor="lm")
            right = left + self._width - APART
            page.text(right, upper + SWATCH / 2, one.value, colour=FAINT, anchor="rm")


@dataclass(frozen=True)
class ColourBar:
    """Which values a column's colours mean.

    Attributes:
        colours: (256, 3) uint8, from left to right.
        ticks: place in 0..1 and words, the most important first: one that would touch is left out.
        unit: a line below.
    """

    colours: NDArray[np.uint8]
    ticks: Sequence[tuple[float, str]]
    unit: str = ""

    @property
    def height(self) -> int:
        """Pixels that it takes."""
        return 58 if self.unit else 44

    def draw(self, page: Page, left: int, top: int, width: int) -> None:
        """Draw it below a column."""
        steps = np.linspace(0, 255, width).round().astype(int)
        page.picture(left, top, np.repeat(self.colours[steps][None], 10, axis=0))
        taken: list[tuple[float, float]] = []
        for share, words in self.ticks:
            half = text_width(words, SMALL) / 2
            centre = min(max(share * width, half), width - half)
            if all(centre + half < start - 6 or centre - half > end + 6 for start, end in taken):
                taken.append((centre - half, centre + half))
                page.box(left + min(share * width, width - 1), top + 11, 1, 5, FAINT)
                page.text(left + centre, top + 17, words, SMALL, FAINT, anchor="ma")
        unit = fitted(self.unit, width, SMALL)
        page.text(left + width / 2, top + 33, unit, SMALL, FAINT, anchor="ma")


def heat_bar(most: float, threshold: float | None = None, beyond: str = "") -> ColourBar:
    """Explain the colours of heat from 0 to `most`, and perhaps beyond."""
    ticks = [] if threshold is None else [(threshold / most, f"threshold {threshold:.2f}")]
    ticks += [(0.0, "0"), (1.0, f"{most:.2g}{beyond}"), (0.5, f"{most / 2:.2g}")]
    return ColourBar(heat(), ticks)
