"""Charts: figures in one quiet look, laid out by matplotlib, written as PNG.

Figures are made as objects, never through pyplot, and the settings that they are drawn with hold
within `chart` alone: drawing in a training process or a thread changes nothing outside.
"""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from stillroom.stages.pictures.page import (
    FAINT,
    INK,
    LINE,
    MARGIN,
    SMALL,
    TEXT,
    TITLE,
    demand_drawable,
    fitted,
    text_width,
    write_png,
)
from stillroom.stages.pictures.palette import palette

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
POINT = 72 / DPI  # points to a pixel
KEY_HEIGHT, KEY_WIDTH = 20, 44  # of a line of a key; of a colour in it, with what is around

# Of the runs or terms in a chart; told apart by people with colour-blindness too (Okabe and Ito,
# "Color Universal Design", 2008), yellow left out, which fades on white.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#4d4d4d")

STYLE: Any = {
    "figure.dpi": DPI,
    "font.family": "DejaVu Sans",
    "font.size": TEXT * POINT,
    "text.color": INK,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "axes.labelsize": TEXT * POINT,
    "axes.titlelocation": "left",
    "axes.titlesize": TEXT * POINT,
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": TEXT * POINT,
    "legend.handlelength": 1,
    "legend.handleheight": 1,
    "legend.borderpad": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    **{f"{axis}tick.{name}": value for axis in "xy" for name, value in (
        ("color", LINE), ("labelcolor", FAINT), ("labelsize", SMALL * POINT), ("major.size", 3))},
}  # fmt: skip

_drawing = threading.Lock()  # matplotlib's settings are the process's


@contextmanager
def chart(path: Path, width: int, height: int, title: str) -> Iterator[Figure]:
    """Give a figure with so many pixels below its title, and write it as a PNG at the end.

    Raises:
        ConfigError: the figure is too large, or cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    height += MARGIN + TITLE
    demand_drawable(width, height)
    words, left = fitted(title, width - 2 * MARGIN, TITLE, bold=True), MARGIN / 2 / width
    layout = ConstrainedLayoutEngine(
        w_pad=MARGIN / 2 / DPI, h_pad=MARGIN / 2 / DPI, rect=(left, 0, 1 - 2 * left, 1)
    )
    with _drawing, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width / DPI, height / DPI), layout=layout)
        figure.suptitle(words, x=2 * left, ha="left", fontsize=TITLE * POINT, fontweight="bold")
        yield figure
        write_png(path, _drawn(figure))


def _drawn(figure: Figure) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A class or file name in a script that the font lacks shows boxes; it is no fault.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.draw()  # type: ignore[no-untyped-call]
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])  # type: ignore[no-untyped-call]


def headed(axes: Axes, title: str, colours: Mapping[str, str], width: int) -> None:
    """Put a title above axes of so many pixels, and below it a key of names by their colours."""
    from matplotlib.patches import Patch
    from matplotlib.transforms import offset_copy

    figure: Any = axes.figure
    above = offset_copy(axes.transAxes, figure, y=6, units="points")
    axes.legend(
        handles=[Patch(color=colour, label=fitted(one, width)) for one, colour in colours.items()],
        title=fitted(title, width, bold=True) or None, title_fontproperties={"weight": "bold"},
        ncols=_key_columns(colours, width), alignment="left", loc="lower left",
        borderaxespad=0, bbox_to_anchor=(0, 1), bbox_transform=above,
    )  # fmt: skip


def key_height(names: Iterable[str], width: int) -> int:
    """Return the pixels that a key takes above axes of so many pixels."""
    return -(-len(list(names)) // _key_columns(names, width)) * KEY_HEIGHT


def _key_columns(names: Iterable[str], width: int) -> int:
    widest = max((text_width(name) for name in names), default=0) + KEY_WIDTH
    return max(1, int(width / widest))


def name_rows(axes: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    """Name what stands in rows, at the left."""
    axes.set_yticks(places, names, color=INK, fontsize=TEXT * POINT)
    axes.tick_params("y", length=0)
    axes.grid(visible=False, axis="y")


def series_colours(names: Sequence[str]) -> dict[str, str]:
    """Give a colour to each run or term."""
    more = palette([f"series {index}" for index in range(len(names))])
    generated = ["#{:02x}{:02x}{:02x}".format(*row) for row in more.tolist()]
    return dict(zip(names, [*SERIES, *generated[len(SERIES) :]], strict=False))
