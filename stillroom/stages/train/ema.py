"""An exponential moving average of a student's weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from stillroom.stages.models.student import Student


class Ema:
    """average <- d * average + (1 - d) * weights,  d = min(decay, (1 + n) / (10 + n)) at update n.

    The ramp lets the average forget its random start. Statistics of batch normalisation are
    averaged like weights; counters are copied.

    Args:
        student: the average, a student of its own, in evaluation mode
    """

    def __init__(self, student: Student, decay: float) -> None:
        self.decay = decay
        self.student = copy.deepcopy(student).eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def update(self, student: Student, step: int) -> None:
        """Take in the weights after `step` earlier updates."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current, average = student.state_dict(), self.student.state_dict()
        numbers = [name for name, one in average.items() if one.is_floating_point()]
        counters = sorted(average.keys() - set(numbers))
        # A few kernels for all of them together, where each would have its own.
        torch._foreach_lerp_(*_both(numbers, average, current), 1 - decay)
        if counters:
            torch._foreach_copy_(*_both(counters, average, current))


def _both(
    names: Sequence[str], one: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    return [one[name] for name in names], [other[name] for name in names]
