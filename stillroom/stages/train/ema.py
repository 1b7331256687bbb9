"""An exponential moving average of a student's weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
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
        current = student.state_dict()
        for name, average in self.student.state_dict().items():
            if average.is_floating_point():
                average.lerp_(current[name].to(average.dtype), 1 - decay)
            else:
                average.copy_(current[name])
