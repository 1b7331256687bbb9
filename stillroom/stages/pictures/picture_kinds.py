"""How an array of a frame is painted and captioned: a row of `PICTURES` for each kind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillroom.stages.pictures.flow_colours import flow_picture, longest_of
from stillroom.stages.pictures.legend import heat_bar
from stillroom.stages.pictures.palette import BLACK, PADDING, WHITE, colourise, heat, palette
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.artifacts import IGNORE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from stillroom.stages.pictures.legend import ColourBar
    from stillroom.stages.pictures.palette import Colour

    Array = NDArray[Any]
    Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PictureContext:
    """What painting an array needs beside its values.

    Attributes:
        shown: (H, W) bool, False where the frame is padding; the picture is as large.
        colours: (C, 3) uint8, of the classes.
        photo: (H, W, 3) uint8, the frame.
        stride: pixels to a position of the array's grid.
        most: the value of the brightest colour; the length of a full hue.
    """

    shown: NDArray[np.bool_]
    colours: Picture
    photo: Picture | None = None
    stride: int = 1
    most: float = 1.0

    def upsample(self, grid: Array) -> torch.Tensor:
        """Bring a grid (C, h, w) to the frame's pixels, (C, H, W)."""
        size = (self.shown.shape[0], self.shown.shape[1])
        return upsample_logits(torch.from_numpy(grid)[None].float(), self.stride, size)[0]


@dataclass(frozen=True)
class PictureKind:
    """One kind of picture.

    Attributes:
        paint: array and context to an image (H, W, 3) uint8.
        caption: the same to a few words.
        classes: the same to the classes that are shown, (H, W); None where there are none.
        most: the arrays of a column to the value of their brightest colour.
        bar: `most` and a threshold of confidence to the colour bar of a column.
        unlabelled: colour and meaning of 255.
        smooth: interpolate where it is enlarged; label maps keep their squares.
    """

    paint: Callable[[Array, PictureContext], Picture]
    caption: Callable[[Array, PictureContext], str] = lambda array, context: ""
    classes: Callable[[Array, PictureContext], Picture] | None = None
    most: Callable[[Sequence[Array]], float] = lambda arrays: 1.0
    bar: Callable[[float, float | None], ColourBar] | None = None
    unlabelled: tuple[Colour, str] = (BLACK, "ignored")
    smooth: bool = False


def _warm(values: Array) -> Picture:
    known = np.isfinite(values)
    painted = heat()[(np.where(known, values, 0).clip(0, 1) * 255).round().astype(np.uint8)]
    painted[~known] = PADDING
    return painted


def _heat(grid: Array, context: PictureContext) -> Picture:
    return _warm(context.upsample(grid[None])[0].numpy() / context.most)


def _squares(grid: Array, context: PictureContext) -> Picture:
    height, width = context.shown.shape
    full = grid.repeat(context.stride, 0).repeat(context.stride, 1)[:height, :width]
    return _warm(full / context.most)


def _mean(grid: Array, context: PictureContext) -> str:
    full = context.upsample(grid[None])[0].numpy()
    return f"mean {np.nanmean(full[context.shown]):.3f}"


def _percentile(grids: Sequence[Array]) -> float:
    """Nearly the highest value: a few that are above all others leave the others visible."""
    known = np.concatenate([grid[np.isfinite(grid)] for grid in grids])
    most = float(np.quantile(known, 0.99)) if known.size else 0.0
    return most if most > 0 else float(known.max(initial=0.0)) or 1.0


def _open_bar(most: float, threshold: float | None) -> ColourBar:
    return heat_bar(most, beyond=" and more")


def _known(depth: Array) -> Array:
    return np.where(depth > 0, depth, np.nan)


def _rgb_of_normals(normals: Array) -> Picture:
    """Paint x, y, z from -1 to 1 as red, green, blue, with y up and z towards the camera."""
    painted = 127.5 * (1 + normals * np.array([1, -1, -1], np.float32)[:, None, None])
    colours: Picture = painted.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    colours[~_some(normals)] = PADDING
    return colours


def _some(vectors: Array) -> NDArray[np.bool_]:
    """Where there is a vector, (h, w)."""
    return np.asarray((vectors != 0).any(0))


BOX_CLASSES = tuple(map(str, range(20)))  # have a colour each; classes beyond begin anew


def _outlines(boxes: Array, context: PictureContext) -> Picture:
    """Draw boxes (N, 5) over the faded frame, each class in a colour of its own."""
    height, width = context.shown.shape
    photo = np.full((height, width, 3), 255, np.uint8) if context.photo is None else context.photo
    colours = palette(BOX_CLASSES)
    drawn: Picture = (photo // 2 + 64).astype(np.uint8)
    for x0, y0, x1, y1, label in _there(boxes).tolist():
        left, top = int(x0), int(y0)
        right, bottom = min(math.ceil(x1), width) - 1, min(math.ceil(y1), height) - 1
        colour = colours[int(label) % len(colours)]
        drawn[top : bottom + 1, [left, right]] = colour
        drawn[[top, bottom], left : right + 1] = colour
    return drawn


def _there(boxes: Array) -> Array:
    """Return the rows that hold a box."""
    return boxes[(boxes[:, 2:4] > boxes[:, :2]).all(1)]


def _magnitude(channels: Array) -> Array:
    """Root mean square of the channels, (h, w)."""
    return np.asarray(np.sqrt(np.square(channels).mean(0)))


def _best_class(logits: Array, context: PictureContext) -> Picture:
    best: Picture = context.upsample(logits).argmax(0).to(torch.uint8).numpy()
    return best


def _class_kind(colour: Colour, unlabelled: str) -> PictureKind:
    return PictureKind(
        lambda label, context: colourise(label, context.colours, colour),
        lambda label, context: f"{(label[context.shown] != IGNORE).mean():.1%} labelled",
        classes=lambda label, context: label,
        unlabelled=(colour, unlabelled),
    )


PICTURES: dict[str, PictureKind] = {
    "photo": PictureKind(lambda image, context: image, smooth=True),
    "painting": PictureKind(lambda image, context: image),
    "classes": _class_kind(BLACK, "ignored"),
    "sure_classes": _class_kind(WHITE, "unlabelled"),
    "scores": PictureKind(
        lambda logits, context: colourise(_best_class(logits, context), context.colours),
        classes=_best_class,
    ),
    "heat": PictureKind(_heat, _mean, bar=heat_bar),
    "depth": PictureKind(
        lambda depth, context: _squares(_known(depth), context),
        lambda depth, context: (
            f"median {np.median(depth[depth > 0]):.3g} m" if depth.any() else "no value"
        ),
        most=lambda arrays: _percentile([_known(depth) for depth in arrays]),
        bar=_open_bar,
    ),
    "squares": PictureKind(_squares, most=_percentile, bar=_open_bar),
    "channels": PictureKind(
        lambda channels, context: _squares(_magnitude(channels), context),
        lambda channels, context: f"root mean square of {len(channels)} channels",
        most=lambda arrays: _percentile([_magnitude(channels) for channels in arrays]),
        bar=_open_bar,
    ),
    "normals": PictureKind(
        lambda normals, context: _rgb_of_normals(normals),
        lambda normals, context: f"{_some(normals)[context.shown].mean():.1%} known",
        smooth=True,
    ),
    "boxes": PictureKind(
        _outlines,
        lambda boxes, context: f"objects: {len(_there(boxes))}" if boxes.any() else "not known",
    ),
    "flow": PictureKind(
        lambda flow, context: flow_picture(flow, context.most),
        lambda flow, context: f"longest {longest_of(flow):.1f} px",
        most=lambda flows: max(map(longest_of, flows)),
        smooth=True,
    ),
}
