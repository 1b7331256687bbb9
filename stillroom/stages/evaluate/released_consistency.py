"""Temporal consistency as the authors' code computes it (tool/eval_tc.py of irfanICMLL/ETC).

Class numbers of t+1 are warped as if they were intensities, and what comes out is cut off to whole
numbers. It is computed in that code's arithmetic: four addends, rounded to float32 each; where all
four pixels show one class their sum may end just below its number, which is then cut to the class
before it. `TemporalConsistency` is the definition; this compares with published numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stillroom.stages.warp import sampling_points

if TYPE_CHECKING:
    from torch import Tensor


class ReleasedConsistency:
    """Counts which class follows which; every pixel counts, wherever it points.

    Attributes:
        counts: int64 (C, C); row = class at t, column = what was warped from t+1
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def add(self, now: Tensor, later: Tensor, flow: Tensor) -> None:
        """Add pairs.

        Args:
            now, later: (B, H, W) uint8 classes at t and t+1; pixels of no class do not count
            flow: (B, 2, H, W) pixels, t -> t+1; not finite: stays where it is
        """
        classes = len(self.counts)
        warped = warp_numbers(later, torch.nan_to_num(flow))
        known = (now < classes) & (warped < classes)
        index = now[known].long() * classes + warped[known]
        added = torch.bincount(index, minlength=classes**2).view(classes, classes)
        self.counts += added.cpu()

    def miou(self) -> float:
        """Return the mean IoU of all classes, 0 for one that is nowhere."""
        right = self.counts.diagonal()
        union = self.counts.sum(0) + self.counts.sum(1) - right
        return float((right / union.clamp(min=1)).mean())


def warp_numbers(numbers: Tensor, flow: Tensor) -> Tensor:
    """Interpolate a map of numbers where the flow points, edges repeated, and cut off fractions.

    Args:
        numbers: (B, H, W) uint8
        flow: (B, 2, H, W) float32

    Returns:
        (B, H, W) uint8
    """
    height, width = numbers.shape[1:]
    x, y = sampling_points(flow.float())
    left, top = x.floor(), y.floor()
    right_share, low_share = (x - left).double(), (y - top).double()
    value = torch.zeros_like(x)
    for row, vertical in ((top, 1 - low_share), (top + 1, low_share)):
        for column, horizontal in ((left, 1 - right_share), (left + 1, right_share)):
            place = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            found = numbers.flatten(1).gather(1, place.flatten(1)).view_as(numbers)
            value += (horizontal * vertical * found).float()
    return value.to(torch.uint8)
