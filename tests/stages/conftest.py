"""What several tests of scores and pictures need.

words  a check of every page that a test draws: nothing overlaps, nothing is cut off
film   a source of clips, held in memory
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from stillroom.stages.pictures import chart
from stillroom.stages.pictures.page import TEXT, Page, font
from stillroom.stages.pictures.sheet import Sheet
from stillroom.stages.sources.source import Frame
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

Box = tuple[float, float, float, float]
PICTURE = "a picture"
SLACK = 2.0  # pixels; a text's box has room for accents and descenders that it may not use


def figure_boxes(figure: Figure) -> list[tuple[str, Box]]:
    """Every visible text of a chart, in pixels: (left, top, right, bottom)."""
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    hidden = set()
    for axes in figure.findobj(Axes):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            hidden |= {
                tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high
            }
    height = figure.bbox.height
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text not in hidden]
    return [(words, (box.x0, height - box.y1, box.x1, height - box.y0)) for words, box in boxes]


def overlap(one: Box, other: Box) -> bool:
    across = min(one[2], other[2]) - max(one[0], other[0])
    along = min(one[3], other[3]) - max(one[1], other[1])
    return across > SLACK and along > SLACK


def check(boxes: list[tuple[str, Box]], width: float, height: float) -> None:
    for (first, one), (second, other) in itertools.combinations(boxes, 2):
        # the words of an empty field stand on its own picture
        on_its_field = PICTURE in (first, second) and "no " in (first[:3], second[:3])
        assert on_its_field or not overlap(one, other), f"{first!r} and {second!r} overlap"
    for name, (left, top, right, bottom) in boxes:
        assert left >= 0, f"{name!r} is cut off at the left"
        assert top >= 0, f"{name!r} is cut off above"
        assert right <= width, f"{name!r} is cut off at the right"
        assert bottom <= height, f"{name!r} is cut off below"


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of the pages drawn; drawing fails where they overlap or leave the page."""
    seen: list[str] = []
    boxes: list[tuple[str, Box]] = []
    text, picture, draw, drawn = Page.text, Page.picture, Sheet.draw, chart._drawn

    def text_with_box(
        page: Page, left: float, top: float, words: str, *more: Any, **by: Any
    ) -> None:
        text(page, left, top, words, *more, **by)
        of = font(more[0] if more else by.get("size", TEXT), bold=by.get("bold", False))
        place, anchor = (round(left), round(top)), by.get("anchor", "la")
        if words:
            boxes.append((words, page._draw.textbbox(place, words, of, anchor=anchor)))

    def picture_with_box(page: Page, left: int, top: int, image: np.ndarray) -> None:
        picture(page, left, top, image)
        boxes.append((PICTURE, (left, top, left + image.shape[1], top + image.shape[0])))

    def checked_sheet(sheet: Sheet) -> Page:
        boxes.clear()
        page = draw(sheet)
        check(boxes, page.width, page.height)
        seen.extend(name for name, _ in boxes if name != PICTURE)
        return page

    def checked_chart(figure: Figure) -> Image.Image:
        image = drawn(figure)
        found = figure_boxes(figure)
        check(found, image.width, image.height)
        seen.extend(name for name, _ in found)
        return image

    monkeypatch.setattr(Page, "text", text_with_box)
    monkeypatch.setattr(Page, "picture", picture_with_box)
    monkeypatch.setattr(Sheet, "draw", checked_sheet)
    monkeypatch.setattr(chart, "_drawn", checked_chart)
    return seen


@dataclass
class Film:
    """Frames of noise at (clip, time); those in `bad` cannot be read."""

    places: list[tuple[str | None, int | None]]
    size: tuple[int, int] = (64, 80)
    bad: set[int] = field(default_factory=set)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None

    @property
    def frame_ids(self) -> list[str]:
        return [f"frame{index}" for index in range(len(self.places))]

    def __len__(self) -> int:
        return len(self.places)

    def position(self, index: int) -> tuple[str | None, int | None]:
        return self.places[index]

    def load(self, index: int) -> Frame:
        if index in self.bad:
            raise FrameError(f"frame{index}: torn")
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        height, width = self.sizes.get(index, self.size)
        image = np.kron(coarse, np.ones((16, 16, 1), np.uint8))[:height, :width]
        return Frame(f"frame{index}", image)

    def identity(self) -> dict[str, Any]:
        return {"frames": len(self)}


@pytest.fixture
def film() -> type[Film]:
    return Film
