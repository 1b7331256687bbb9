"""A white page measured in pixels: pictures placed without resampling, lines of text, a PNG."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Colour = tuple[int, int, int] | str

LONGEST_SIDE = 32_000
INK, FAINT, LINE, FRAME = "#1c1f24", "#6b7280", "#d5d9e0", "#c8c8c8"
MARGIN = 28
TITLE, TEXT, SMALL = 18, 13, 12  # heights in pixels


class Page:
    """A white page of width x height pixels; positions count from the top left."""

    def __init__(self, width: int, height: int) -> None:
        demand_drawable(width, height)
        self.width, self.height = width, height
        self.image = Image.new("RGB", (width, height), "white")
        self._draw = ImageDraw.Draw(self.image)

    def picture(self, left: int, top: int, image: NDArray[np.uint8]) -> None:
        """Place an image (H, W, 3), pixel for pixel, with a thin frame around it."""
        height, width = image.shape[:2]
        self.box(left - 1, top - 1, width + 2, height + 2, FRAME)
        self.image.paste(Image.fromarray(image), (left, top))

    def box(
        self, left: float, top: float, width: float, height: float, colour: Colour,
        outline: Colour | None = None,
    ) -> None:  # fmt: skip
        """Fill a rectangle."""
        left, top = round(left), round(top)
        corners = (left, top, left + round(width) - 1, top + round(height) - 1)
        self._draw.rectangle(corners, colour, outline)

    def text(
        self, left: float, top: float, words: str, size: int = TEXT, colour: Colour = INK, *,
        bold: bool = False, anchor: str = "la",
    ) -> None:  # fmt: skip
        """Write one line; `anchor`, as Pillow names it, is the point of the text that is placed."""
        place, words = (round(left), round(top)), words.replace("\n", " ")
        self._draw.text(place, words, colour, font(size, bold=bold), anchor=anchor)


def demand_drawable(width: int, height: int) -> None:
    """Raise ConfigError for a picture that matplotlib, or a viewer, could not take."""
    if max(width, height) > LONGEST_SIDE:
        raise ConfigError(
            f"a picture of {height}x{width} pixels is too large to draw "
            f"(at most {LONGEST_SIDE} a side); ask for fewer frames"
        )


def write_png(path: Path, image: Image.Image) -> Path:
    """Write a picture, making its folder.

    Raises:
        ConfigError: it cannot be written there.
    """
    make_place(path)
    try:
        image.save(path, format="PNG")
    except OSError as error:
        raise ConfigError(f"picture {path}: cannot be written ({error.strerror})") from error
    return path


def make_place(path: Path) -> None:
    """Make the folder of a picture, before the work that it is to show.

    Raises:
        ConfigError: there can be no such folder, or no such file in it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"picture {path}: its folder cannot be made ({error.strerror})"
        ) from error
    if path.is_dir():
        raise ConfigError(f"picture {path}: this is a folder; name a file in it")


@lru_cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load the font that comes with matplotlib, so that every machine draws alike."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = f"{matplotlib.get_data_path()}/fonts/ttf/{name}"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def text_width(words: str, size: int = TEXT, *, bold: bool = False) -> float:
    """Return the pixels that one line of text takes."""
    return font(size, bold=bold).getlength(words.replace("\n", " "))


def fitted(words: str, width: float, size: int = TEXT, *, bold: bool = False) -> str:
    """Shorten words to `width` pixels: the ends of a name tell more of it than its middle."""
    shown, kept = words, len(words)
    while kept and text_width(shown, size, bold=bold) > width:
        kept -= 1
        shown = f"{words[: kept // 2]}…{words[len(words) - (kept - kept // 2) :]}"
    return shown


def wrapped(words: str, width: float, size: int = SMALL) -> list[str]:
    """Break words into lines of at most `width` pixels."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(fitted(word, width, size))
    return lines
