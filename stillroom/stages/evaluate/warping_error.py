"""Flow warping error: how much a signal changes along the flow; of predictions, their stability.

    E(V_t, V_t+1) = sum_i M_i sum_c (V_t,ic - warp(V_t+1)_ic)^2 / (C sum_i M_i)
    of a clip: the mean over its pairs;  of a data set: the mean over its clips

M_i is 1 where the pixel's target lies in the frame and, with a mask, where t+1 shows it.

Of **class probabilities** this is the temporal stability Tsb, small where predictions are steady.
The thesis below prints Tsb (its table 5.5) without a formula, and measures stability after Lai et
al., whose formula and whose code's mean over channels this is; V is ours to choose. Of **frames**
in 0..1 it is Lai et al.'s E_warp, and tells how good the flow is: no prediction can be trusted to
be steadier along a flow than the frames themselves.

Lai et al., "Learning Blind Video Temporal Consistency", ECCV 2018, section 4.2; arXiv:1808.00449.
Y. Liu, "Efficient Fully Convolutional Networks for Dense Prediction Tasks", PhD thesis, Adelaide
2021, sections 5.3.4 and 5.4.4. Where Lai et al.'s code counts a pair without a visible pixel as
perfect, ours leaves it out of the mean.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from stillroom.stages.warp import inside_frame, warp
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


class WarpingError:
    """The mean flow warping error of a clip, pair after pair."""

    def __init__(self) -> None:
        self._errors: list[float] = []

    def add(
        self, now: Tensor, later: Tensor, flow: Tensor, *, visible: Tensor | None = None
    ) -> None:
        """Add one or more pairs; arguments as `warping_error`."""
        self._errors += warping_error(now, later, flow, visible=visible).tolist()

    def mean(self) -> float:
        """Return the mean over the pairs in which a pixel counts.

        Raises:
            ArtifactError: there is no such pair.
        """
        known = [error for error in self._errors if not math.isnan(error)]
        if not known:
            raise ArtifactError("no warping error: no pixel of any pair stays in the frame")
        return sum(known) / len(known)


def warping_error(
    now: Tensor, later: Tensor, flow: Tensor, *, visible: Tensor | None = None
) -> Tensor:
    """Mean squared difference between a signal and the next one, warped to it.

    Args:
        now, later: (B, C, H, W) at t and t+1: class probabilities, or frames in 0..1
        flow: (B, 2, H, W) pixels, t -> t+1
        visible: (B, 1, H, W) bool, True where t+1 shows the pixel too; None: where it is in the
            frame

    Returns:
        (B,) float64; NaN where no pixel counts
    """
    if now.ndim != 4 or now.shape != later.shape:
        raise ArtifactError(
            f"the signal at t is {tuple(now.shape)} and that at t+1 {tuple(later.shape)}; "
            "both must be the same (B, C, H, W)"
        )
    warped = warp(later, flow)
    counted = inside_frame(flow)
    if visible is not None:
        if visible.shape != counted.shape or visible.dtype != torch.bool:
            raise ArtifactError(
                f"visible must be {tuple(counted.shape)} torch.bool, got {tuple(visible.shape)} "
                f"{visible.dtype}"
            )
        counted = counted & visible
    squared = (now.to(warped.dtype) - warped).square().masked_fill(~counted, 0)
    return squared.double().mean(1).sum((1, 2)) / counted.double().sum((1, 2, 3))
