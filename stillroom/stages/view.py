"""Views: the geometric window on a canvas that a training sample shows, and how one is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from stillroom.stages.settings import Settings
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    import numpy as np

Pixels = Annotated[int, Field(gt=0)]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ViewConfig(Settings):
    """Which views training samples.

    Attributes:
        crop: (height, width) of the output in pixels; None takes the canvas' own size
        scale: (lowest, highest) enlargement, drawn uniformly; 0.5 shows twice the crop, half as
            large
        flip: mirror left to right with probability 1/2
    """

    crop: tuple[Pixels, Pixels] | None = None
    scale: tuple[Scale, Scale] = (1.0, 1.0)
    flip: bool = False

    @model_validator(mode="after")
    def _scale_is_ordered(self) -> ViewConfig:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is (lowest, highest), got {self.scale}")
        return self


@dataclass(frozen=True)
class View:
    """A window on the canvas, and the size that it is brought to.

    Attributes:
        top, left, height, width: canvas pixels, fractions allowed; may reach outside the canvas
        out_height, out_width: pixels of the output
        flip: the output is the window's mirror image, left to right
    """

    top: float
    left: float
    height: float
    width: float
    out_height: int
    out_width: int
    flip: bool = False

    def __post_init__(self) -> None:
        sizes = (self.height, self.width, self.out_height, self.out_width)
        if not all(map(math.isfinite, (self.top, self.left, *sizes))) or min(sizes) <= 0:
            raise ConfigError(f"a view needs finite corners and sizes above 0, got {self}")


def identity_view(canvas: tuple[int, int]) -> View:
    """Return the view that changes nothing: the whole canvas at its own size."""
    height, width = canvas
    return View(0.0, 0.0, float(height), float(width), height, width)


def sample_view(
    config: ViewConfig,
    canvas: tuple[int, int],
    rng: np.random.Generator,
    valid: tuple[int, int] | None = None,
) -> View:
    """Draw a view: scale, then position, then flip.

    Always takes four numbers from `rng`, so that switching flip on moves no crop. A window smaller
    than the valid area lies inside it; one larger than it contains it, anywhere. At scale 1 the
    corner is a whole pixel, and nothing is interpolated.

    Args:
        canvas: (height, width) of the canvas
        valid: (height, width) of the part that holds the frame, from the top left; None for all of
            it
    """
    valid = canvas if valid is None else valid
    if not (0 < valid[0] <= canvas[0] and 0 < valid[1] <= canvas[1]):
        raise ArtifactError(f"valid area {valid} must be above 0 and within the canvas {canvas}")
    out_height, out_width = config.crop or canvas
    draw_scale, draw_top, draw_left, draw_flip = rng.random(4).tolist()
    low, high = config.scale
    scale = low + (high - low) * draw_scale
    height, width = out_height / scale, out_width / scale
    return View(
        top=_corner(height, canvas[0], valid[0], draw_top, whole=scale == 1),
        left=_corner(width, canvas[1], valid[1], draw_left, whole=scale == 1),
        height=height,
        width=width,
        out_height=out_height,
        out_width=out_width,
        flip=config.flip and draw_flip < 0.5,
    )


def _corner(size: float, canvas: int, valid: int, draw: float, *, whole: bool) -> float:
    """Place a window of `size` along one axis; `draw` in [0, 1) picks among the places."""
    slack = (valid if size < canvas else canvas) - size
    if whole:
        return float(math.floor(draw * (abs(slack) + 1)) * (1 if slack > 0 else -1))
    return draw * slack
