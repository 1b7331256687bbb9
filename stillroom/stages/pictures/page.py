"""A page measured in pixels: pictures placed without resampling, text, and a PNG at the end.

Figures are made as objects, never through pyplot, so that drawing in a training process or a
thread changes nothing outside. Positions count from the top left, as in images.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from stillroom.stages.pictures.palette import palette
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

DPI = 100
LONGEST_SIDE = 32_000  # Agg draws up to 2^15 pixels
INK = "#1c1f24"
FAINT = "#6b7280"
LINE = "#d5d9e0"
FONT = "DejaVu Sans"  # comes with matplotlib, so that every machine draws alike
TITLE, TEXT, SMALL = 18, 13, 12  # heights in pixels
SWATCH, KEY_HEIGHT = 14, 22

KeyLines = list[list[tuple[float, str, str]]]

# Of the runs or terms in a chart; told apart by people with colour-blindness too (Okabe and Ito,
# "Color Universal Design", 2008), yellow left out, which fades on white.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#4d4d4d")


class Page:
    """A white page of width x height pixels."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        if max(width, height) > LONGEST_SIDE:
            raise ConfigError(
                f"a picture of {height}x{width} pixels is too large to draw "
                f"(at most {LONGEST_SIDE} a side); ask for fewer frames"
            )
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(self.figure)

    def picture(self, left: int, top: int, image: NDArray[np.uint8]) -> None:
        """Place an image (H, W, 3), pixel for pixel, with a thin frame around it."""
        framed = np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=200)
        bottom = self.height - top - image.shape[0] - 1
        self.figure.figimage(framed, left - 1, bottom)

    def text(
        self, left: float, top: float, words: str, size: int = TEXT, colour: str = INK, **more: Any
    ) -> None:
        """Write one line whose upper edge is at `top`; words are never read as formulas."""
        more.setdefault("va", "top")
        self.figure.text(
            left / self.width, 1 - top / self.height, words, color=colour, parse_math=False,
            fontproperties=font(size, bold=bool(more.pop("bold", False))), **more,
        )  # fmt: skip

    def box(self, left: float, top: float, width: float, height: float, colour: Any) -> None:
        """Fill a rectangle."""
        from matplotlib.patches import Rectangle

        corner = (left / self.width, 1 - (top + height) / self.height)
        extent = (width / self.width, height / self.height)
        self.figure.add_artist(
            Rectangle(corner, *extent, facecolor=colour, edgecolor="#9aa1ac", linewidth=0.6)
        )

    def key(self, left: float, top: float, lines: KeyLines, colours: Mapping[str, str]) -> None:
        """Write a key of names behind their colours, as `key_lines` has wrapped it."""
        for number, line in enumerate(lines):
            for offset, name, shown in line:
                upper = top + number * KEY_HEIGHT
                self.box(left + offset, upper, SWATCH, SWATCH, colours[name])
                self.text(
                    left + offset + SWATCH + 8, upper + SWATCH / 2, shown, va="center_baseline"
                )

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes whose inner area is the given rectangle."""
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )

    def pixels(self) -> NDArray[np.uint8]:
        """The page as an image (H, W, 3)."""
        with warnings.catch_warnings():
            # A class or file name in a script that the font lacks shows boxes; it is no fault.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            self._canvas.draw()  # type: ignore[no-untyped-call]
        # Not by savefig: a user's own matplotlibrc may crop or resize what that writes.
        drawn = self._canvas.buffer_rgba()  # type: ignore[no-untyped-call]
        return np.ascontiguousarray(np.asarray(drawn)[..., :3])

    def save(self, path: Path) -> Path:
        """Write the page as a PNG, making its folder."""
        pixels = self.pixels()
        make_place(path)
        try:
            Image.fromarray(pixels).save(path, format="PNG")
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


def text_width(words: str, size: int = TEXT, *, bold: bool = False) -> float:
    """Pixels that one line of text takes."""
    from matplotlib.textpath import TextToPath

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        width, _, _ = TextToPath().get_text_width_height_descent(
            words, font(size, bold=bold), ismath=False
        )
    return float(width) * DPI / 72


def fitted(words: str, width: float, size: int = TEXT, *, bold: bool = False) -> str:
    """Words that fit into `width` pixels, their middle replaced by an ellipsis if they must."""
    if text_width(words, size, bold=bold) <= width:
        return words

    # The ends of a frame's name tell it from its neighbours; its middle seldom does.
    def too_wide(kept: int) -> bool:
        return text_width(_cut(words, kept), size, bold=bold) > width

    fits = bisect_left(range(2, len(words)), True, key=too_wide)
    return _cut(words, fits + 1) if fits else "…"


def _cut(words: str, kept: int) -> str:
    """The first and last letters of some words, `kept` in all."""
    return f"{words[: kept // 2]}…{words[len(words) - (kept - kept // 2) :]}"


def key_lines(names: Sequence[str], room: float) -> KeyLines:
    """Wrap a key into `room` pixels: by line, (offset in pixels, name, name as it is shown)."""
    lines: KeyLines = [[]]
    offset = 0.0
    for name in names:
        shown = fitted(name, room - SWATCH - 8)
        taken = SWATCH + 8 + text_width(shown)
        if lines[-1] and offset + taken > room:
            lines.append([])
            offset = 0.0
        lines[-1].append((offset, name, shown))
        offset += taken + 28
    return lines


def series_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each run or term."""
    more = palette([f"series {index}" for index in range(len(names))])
    generated = ["#{:02x}{:02x}{:02x}".format(*row) for row in more.tolist()]
    return dict(zip(names, [*SERIES, *generated[len(SERIES) :]], strict=False))


def style_axes(axes: Axes) -> None:
    """Give axes the page's quiet look: two thin spines, small ticks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(colors=FAINT, length=3)
    for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        tick.set_fontproperties(font(SMALL))
    axes.set_axisbelow(True)


def font(size: int, *, bold: bool = False) -> Any:
    """The page's font at a height in pixels."""
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=FONT, size=size * 72 / DPI, weight="bold" if bold else "normal")
