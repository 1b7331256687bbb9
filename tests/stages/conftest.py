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

from stillroom.stages.pictures.page import Page
from stillroom.stages.sources.source import Frame
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from pathlib import Path

Box = tuple[float, float, float, float]
SLACK = 2.0  # pixels; a text's box has room for accents and descenders that it may not use


def text_boxes(page: Page) -> list[tuple[str, Box]]:
    """Every visible text of a page, in pixels: (left, bottom, right, top)."""
    page._canvas.draw()  # type: ignore[no-untyped-call]
    texts = list(page.figure.texts)
    for axes in page.figure.axes:
        texts += [*axes.texts, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [
                tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high
            ]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    return [(words, (box.x0, box.y0, box.x1, box.y1)) for words, box in boxes]


def picture_boxes(page: Page) -> list[tuple[str, Box]]:
    images = [(image, image.get_array()) for image in page.figure.images]
    return [
        ("a picture", (image.ox, image.oy, image.ox + array.shape[1], image.oy + array.shape[0]))
        for image, array in images
    ]


def overlap(one: Box, other: Box) -> bool:
    across = min(one[2], other[2]) - max(one[0], other[0])
    along = min(one[3], other[3]) - max(one[1], other[1])
    return across > SLACK and along > SLACK


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of the pages drawn; drawing fails where they overlap or leave the page."""
    seen: list[str] = []
    save = Page.save

    def checked(page: Page, path: Path) -> Path:
        texts, pictures = text_boxes(page), picture_boxes(page)
        for (first, one), (second, other) in itertools.combinations([*texts, *pictures], 2):
            # the words of an empty field stand on its own picture
            on_its_field = first.startswith("no ") and second == "a picture"
            assert on_its_field or not overlap(one, other), f"{first!r} and {second!r} overlap"
        for name, (left, bottom, right, top) in [*texts, *pictures]:
            assert left >= 0, f"{name!r} is cut off at the left"
            assert bottom >= 0, f"{name!r} is cut off below"
            assert right <= page.width, f"{name!r} is cut off at the right"
            assert top <= page.height, f"{name!r} is cut off above"
        seen.extend(name for name, _ in texts)
        return save(page, path)

    monkeypatch.setattr(Page, "save", checked)
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
