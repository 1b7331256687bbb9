"""Differences of depth, pixel by pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from stillroom.stages.train.loss_parts.known_depth import demand_depth, is_known
from stillroom.stages.train.loss_parts.masks import masked_mean
from stillroom.stages.train.terms.target_term import DepthTerm
from stillroom.storage_specs.artifacts import DEPTH

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput

Kind = Literal["log_l1", "l1", "berhu", "scale_shift"]
BEND = 0.2  # of a frame's largest difference, where berHu turns from straight to square


def depth_regression(
    student: Tensor, depth: Tensor, *, kind: Kind = "log_l1", mask: Tensor | None = None
) -> Tensor:
    """Take the difference of two depths.

    log_l1: mean_i |log s_i - log d_i|
    l1: mean_i |s_i - d_i|
    berhu: mean_i of |e| where |e| <= c, else (e^2 + c^2) / (2 c);  e = s_i - d_i,
        c = 0.2 max |e| of the frame
    scale_shift: mean_i |n(1 / s)_i - n(1 / d)_i|,  n(x) = (x - median x) / mean |x - median x|,
        both of the frame's counted pixels

    berhu: Laina et al., "Deeper Depth Prediction with Fully Convolutional Residual Networks",
    3DV 2016, eq. 1; arXiv:1606.00373: c there is of the batch. scale_shift: Ranftl et al., "Towards
    Robust Monocular Depth Estimation", TPAMI 2022, eq. 5 and 6; arXiv:1907.01341: of inverse depth
    whose scale and shift are not known.

    Args:
        student: (B, 1, H, W) metres, above 0
        depth: (B, 1, H, W) metres; 0, or what is not finite: none
        kind: which of these
        mask: (B, 1, H, W) bool, True where a pixel counts

    Returns:
        () mean over the counted pixels of the batch that have a depth
    """
    demand_depth(student, depth, mask, channels=1)
    known = is_known(depth, mask)
    dtype = torch.promote_types(torch.promote_types(student.dtype, depth.dtype), torch.float32)
    ours = student.to(dtype).masked_fill(~known, 1)
    theirs = depth.detach().to(dtype).masked_fill(~known, 1)
    if kind == "log_l1":
        ours, theirs = ours.log(), theirs.log()
    elif kind == "scale_shift":
        ours, theirs = _standardised(1 / ours, known), _standardised(1 / theirs, known)
    size = (ours - theirs).abs()
    if kind == "berhu":
        bend = BEND * size.detach().amax((1, 2, 3), keepdim=True)
        floor = torch.finfo(dtype).tiny
        size = torch.where(size <= bend, size, (size.square() + bend.square()) / (2 * bend + floor))
    return masked_mean(size.squeeze(1), known)


def _standardised(values: Tensor, known: Tensor) -> Tensor:
    """Subtract each frame's median, and divide by the mean distance from it."""
    counted = values.masked_fill(~known, torch.nan).flatten(1)
    middle = counted.nanmedian(1).values.nan_to_num().view(-1, 1, 1, 1)  # 0 where nothing counts
    apart = (values - middle).masked_fill(~known, 0)
    count = known.sum((1, 2, 3), keepdim=True).clamp(min=1)
    spread = apart.abs().sum((1, 2, 3), keepdim=True) / count
    return apart / spread.clamp(min=torch.finfo(values.dtype).eps)


class DepthRegressionTerm(DepthTerm):
    """`depth_regression`.

    Attributes:
        kind: "scale_shift" is for teachers who tell depth but for its scale and shift
    """

    name: Literal["depth_regression"]
    kind: Kind = "log_l1"

    @property
    def grid(self) -> str:
        return DEPTH

    def value(self, given: TermInput) -> Tensor:
        depth = self.known(given)
        student = self.brought(given, depth)
        return depth_regression(student, depth, kind=self.kind, mask=self.counted(given))
