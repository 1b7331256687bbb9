"""How each artifact of a teacher is made from its output, a small function an artifact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.artifacts import (
    CONFIDENCE,
    DEPTH,
    FEATURES,
    IGNORE,
    LOGITS,
    PIXEL_CONFIDENCE,
    PSEUDO_LABEL,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from stillroom.stages.sources.canvas import CanvasFrame


@dataclass(frozen=True)
class Output:
    """What a teacher gives for one frame, in the grid that an artifact is made from.

    Attributes:
        grid: (C, h, w) or (h, w) float32, on the teacher's device
        stride: canvas pixels to one position of it
        threshold: pixels whose highest class probability is below it get no pseudo label (Xie et
            al., "Improving Fast Segmentation With Teacher-student Learning", 2018, sec. 4.1: 0.7)
    """

    grid: Tensor
    stride: int
    frame: CanvasFrame
    threshold: float

    @cached_property
    def best(self) -> tuple[Tensor, Tensor]:
        """Highest class probability of each canvas pixel, and its class: (H, W), (H, W)."""
        size = self.frame.image.shape[:2]
        full = upsample_logits(self.grid[None], self.stride, (size[0], size[1]))[0]
        probability, label = full.softmax(0).max(0)
        return probability, label


def unchanged(output: Output) -> Tensor:
    """Return the grid itself: (C, h, w)."""
    return output.grid


def confidence(output: Output) -> Tensor:
    """Return the highest class probability: (h, w)."""
    return output.grid.softmax(0).amax(0)


def pseudo_label(output: Output) -> Tensor:
    """Return the class of each canvas pixel, 255 where unsure or outside the photo: (H, W)."""
    probability, label = output.best
    label = label.masked_fill(~(probability >= output.threshold), IGNORE)
    return _cleared_outside(label, output, IGNORE).to(torch.uint8)


def pixel_confidence(output: Output) -> Tensor:
    """Return what `pseudo_label` compares with its threshold, 0 outside the photo: (H, W)."""
    return _cleared_outside(output.best[0].clone(), output, 0)


def _cleared_outside(pixels: Tensor, output: Output, value: int) -> Tensor:
    height, width = output.frame.valid
    pixels[height:] = value
    pixels[:, width:] = value
    return pixels


def depth(output: Output) -> Tensor:
    """Return the grid with 0, no value, where a centre lies outside the photo: (h, w)."""
    valid = output.frame.valid
    made = output.grid.clone()
    made[math.ceil(valid[0] / output.stride - 0.5) :] = 0
    made[:, math.ceil(valid[1] / output.stride - 0.5) :] = 0
    return made


MAKERS: dict[str, Callable[[Output], Tensor]] = {
    LOGITS: unchanged,
    FEATURES: unchanged,
    PSEUDO_LABEL: pseudo_label,
    CONFIDENCE: confidence,
    PIXEL_CONFIDENCE: pixel_confidence,
    DEPTH: depth,
}
