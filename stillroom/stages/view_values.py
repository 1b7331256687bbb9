"""What a view makes of values beside moving them: of holes among them, and of what they measure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from stillroom.stages.view import View

TINY = 1e-12  # of a length, so that 0 / 0 is 0


class Sampled(NamedTuple):
    """What lies under the points of one or more views, of a grid with holes.

    Attributes:
        sums: (..., C, h, w), of the values that are there, in bilinear weights
        weight: (..., 1, h, w), of the positions with a value
        shown: bool that broadcasts to it, False outside the grid
    """

    sums: Tensor
    weight: Tensor
    shown: Tensor

    def mean(self) -> Tensor:
        """Return the mean of the values; 0 where they have less than half of the weight."""
        return self._filled(self.sums / self.weight)

    def unit(self) -> Tensor:
        """Return the direction of the sum, likewise, and 0 where that is 0."""
        x, y, z = self.sums.unbind(-3)
        length = (x * x + y * y + z * z).sqrt().clamp(min=TINY).unsqueeze(-3)
        return self._filled(self.sums / length)

    def _filled(self, made: Tensor) -> Tensor:
        return torch.where(self.shown & ~(self.weight < 0.5), made, 0)


def _of_vectors(view: View) -> tuple[float, float]:
    across = (-1 if view.flip else 1) * (view.out_width / view.width)
    return across, view.out_height / view.height


def _of_depth(view: View) -> tuple[float]:
    return (math.sqrt(view.height / view.out_height * (view.width / view.out_width)),)


def _of_directions(view: View) -> tuple[float, float, float]:
    return (-1.0 if view.flip else 1.0), 1.0, 1.0


VALUE_SCALES: dict[str, Callable[[View], tuple[float, ...]]] = {
    "vector": _of_vectors,
    "depth": _of_depth,
    "direction": _of_directions,
}
"""What a view multiplies the channels of a geometry by, once they are sampled."""
