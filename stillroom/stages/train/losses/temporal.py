"""Temporal loss: what moves along the flow should keep its class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import field_validator

from stillroom.stages.device_values import constants
from stillroom.stages.models.teacher_settings import IMAGENET_MEAN, IMAGENET_STD
from stillroom.stages.train.loss_parts.downsample import downsample_at_centres, downsample_by_means
from stillroom.stages.train.loss_parts.masks import demand_mask, masked_mean
from stillroom.stages.train.reads import TRIPLETS
from stillroom.stages.train.terms.term import Positive, Term
from stillroom.stages.upsample import upsample_logits
from stillroom.stages.warp import inside_frame, photometric_weight, warp
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.train.terms.term import TermInput

_ROUNDING = 1e-3  # share of a bilinear sample at hidden positions; less is rounding


@dataclass(frozen=True, eq=False)
class Correspondence:
    """How frame t lies in frame t+k, on the grid of the maps that are compared.

    Attributes:
        flow: (B, 2, H, W), t -> t+k, in positions of that grid
        weight: (B, 1, H, W), V: how far t+k counts at each position of t, bool or 0..1, as
            `warp.visible` and `warp.photometric_weight` make it; None is 1 everywhere
        shown: (B, 1, H, W) bool on t+k's grid, True where a position shows the frame; None is
            everywhere
    """

    flow: Tensor
    weight: Tensor | None = None
    shown: Tensor | None = None


def temporal(
    student: Tensor,
    later: Tensor,
    match: Correspondence,
    *,
    variant: Literal["paper", "released"] = "paper",
    mask: Tensor | None = None,
) -> Tensor:
    """Compare the prediction at t with that at t+k, warped to t.

    paper:     loss = 1/N sum_i V_i sum_c (q_t,ic - warp(q_t+k)_ic)^2,  q = softmax over classes
    released:  loss = 1/N sum_i V_i^2 1/C sum_c (z_t,ic - warp(z_t+k)_ic)^2,  z: the logits
    warp: bilinear, t+k sampled where the flow points

    Memory: about three times the two maps

    Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference", ECCV 2020, eq. 1;
    arXiv:2002.11433; Y. Liu, "Efficient Fully Convolutional Networks for Dense Prediction Tasks",
    PhD thesis, Adelaide 2021, eq. 5.1, there with weight 0.1. What differs:
    docs/losses/temporal.md.

    Args:
        student, later: (B, C, H, W) logits of the student at t and at t+k; both get the gradient,
            and `later.detach()` makes t+k a target
        match: the flow and V
        variant: "released" counts what leaves the frame too, at the value of the edge; to it
            belongs `photometric_weight(..., channels="summed")`
        mask: (B, 1, H, W) bool on t's grid, True where a position counts

    Returns:
        () mean over the N counted positions of the batch, between 0 and 2 in the paper's
        variant; V is a factor, so that N has positions with V = 0 too: and them into the mask to
        divide by the visible ones alone. A position does not count where its flow is not finite,
        needs a position of t+k that is not shown, or leaves the frame
    """
    if variant not in ("paper", "released"):
        raise ConfigError(f"variant must be 'paper' or 'released', got {variant!r}")
    _demand_maps(student, later, match, mask)
    with torch.autocast(student.device.type, enabled=False):
        flow, counted = _followed(match, mask, outside=variant == "released")
        dtype = torch.promote_types(student.dtype, later.dtype)
        now, then = (
            part.to(torch.promote_types(dtype, torch.float32)) for part in (student, later)
        )
        # Masked positions are overwritten before any arithmetic: a NaN times 0 is a NaN.
        now = now if mask is None else now.masked_fill(~mask, 0)
        then = then if match.shown is None else then.masked_fill(~match.shown, 0)
        if variant == "paper":
            now, then = F.softmax(now, dim=1), F.softmax(then, dim=1)
        squared = (now - warp(then, flow)).square()  # (B, C, H, W)
        distance = squared.sum(1) if variant == "paper" else squared.mean(1)
        if match.weight is not None:
            weight = match.weight.detach().to(now.dtype).masked_fill(~counted, 0)[:, 0]
            distance = distance * (weight if variant == "paper" else weight.square())
        return masked_mean(distance, counted)


def _followed(
    match: Correspondence, mask: Tensor | None, *, outside: bool
) -> tuple[Tensor, Tensor]:
    """The flow, 0 where it cannot be followed, and which positions count, (B, 1, H, W) bool."""
    flow = match.flow.detach()
    finite = torch.isfinite(flow).all(1, keepdim=True)
    counted = finite if outside else inside_frame(flow)
    if mask is not None:
        counted = counted & mask
    flow = flow.masked_fill(~counted, 0)
    if match.shown is not None:
        hidden = warp((~match.shown).to(torch.promote_types(flow.dtype, torch.float32)), flow)
        counted = counted & (hidden < _ROUNDING)
    return flow, counted


def _demand_maps(
    student: Tensor, later: Tensor, match: Correspondence, mask: Tensor | None
) -> None:
    if student.ndim != 4 or student.shape != later.shape:
        raise ArtifactError(
            f"the prediction at t is {tuple(student.shape)} and that at t+k {tuple(later.shape)}; "
            "both must be the same (B, C, H, W)"
        )
    batch, _, *size = student.shape
    if tuple(match.flow.shape) != (batch, 2, *size) or not match.flow.is_floating_point():
        raise ArtifactError(
            f"flow must be {(batch, 2, *size)}, floating, in cells of the predictions' grid; got "
            f"{tuple(match.flow.shape)} {match.flow.dtype}"
        )
    expected = (batch, 1, *size)
    demand_mask(mask, student)
    demand_mask(match.shown, student, "shown")
    if match.weight is not None and tuple(match.weight.shape) != expected:
        raise ArtifactError(f"weight must be {expected}, got {tuple(match.weight.shape)}")


class TemporalTerm(Term):
    """`temporal` over all pairs of the batch: it needs clips, and no teacher.

    Attributes:
        variant: "paper", of probabilities; "released", the authors' code, of logits
        occlusion: V: "photometric", the paper's, of the two frames; "visible", where following the
            flow back ends where it began; "both", the product; "none"
        at: "cells", on the logits' own grid; "pixels", the logits upsampled, as the authors do:
            finer, and many times as expensive
    """

    name: Literal["temporal"]
    weight: Positive = 0.1
    variant: Literal["paper", "released"] = "paper"
    occlusion: Literal["photometric", "visible", "both", "none"] = "photometric"
    at: Literal["cells", "pixels"] = "cells"

    @field_validator("teacher")
    @classmethod
    def _no_teacher(cls, teacher: str | None) -> str | None:
        if teacher is not None:
            raise ValueError(
                "temporal compares the student's frames with each other, and no teacher is asked: "
                "leave `teacher` out"
            )
        return teacher

    def reads(self, labelled: bool) -> frozenset[str]:
        return frozenset({TRIPLETS})

    def value(self, given: TermInput) -> Tensor:
        triplets, stride = given.triplets, given.stride
        now, later = triplets.pairs.unbind(1)
        flow, weight = triplets.flow, self._weight(given)
        if self.at == "cells":
            flow = downsample_at_centres(flow, stride) / stride
            weight = None if weight is None else downsample_by_means(weight, stride)
            logits, shown = given.features, given.mask
        else:
            height, width = given.batch.images.shape[2:]
            logits = upsample_logits(given.features, stride, (height, width))
            shown = given.pixel_mask
        match = Correspondence(flow, weight, shown[later])
        return temporal(logits[now], logits[later], match, variant=self.variant, mask=shown[now])

    def _weight(self, given: TermInput) -> Tensor | None:
        """(P, 1, H, W): V of every pixel of the pairs; None: 1 everywhere."""
        triplets = given.triplets
        if self.occlusion == "none":
            return None
        visible = triplets.visible.to(triplets.flow.dtype)
        if self.occlusion == "visible":
            return visible
        now, later = triplets.pairs.unbind(1)
        images = given.batch.images
        mean, deviation = (
            constants(each, images).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD)
        )
        images = (images - mean) / deviation
        finite = torch.isfinite(triplets.flow).all(1, keepdim=True)
        weight = photometric_weight(
            images[now],
            images[later],
            triplets.flow.masked_fill(~finite, 0),
            channels="summed" if self.variant == "released" else "apart",
        ).masked_fill(~finite, 0)
        return weight * visible if self.occlusion == "both" else weight
