"""The term of consistency along the optical flow: it needs clips, and no teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, field_validator

from stillroom.stages.geometry import upsample_logits
from stillroom.stages.models.teacher_settings import IMAGENET_MEAN, IMAGENET_STD
from stillroom.stages.train.cells import at_centres, cell_means
from stillroom.stages.train.losses.temporal import Motion, temporal
from stillroom.stages.train.reads import MOTION
from stillroom.stages.train.terms.term import Seen, Term
from stillroom.stages.warp import photometric_weight
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


class TemporalTerm(Term):
    """`losses.temporal` over all pairs of the batch: what moves along the flow keeps its class.

    variant: "paper", of probabilities; "released", the authors' code, of logits
    occlusion: what the partner may say about a pixel: "photometric", the paper's V of the two
        frames; "visible", where following the flow back ends where it began; "both", the product;
        "none"
    at: "cells", on the logits' own grid; "pixels", the logits upsampled, as the authors do: finer,
        and many times as expensive
    """

    name: Literal["temporal"]
    weight: float = Field(default=0.1, gt=0, allow_inf_nan=False)
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
        """Triplets and flow, whatever the stream."""
        del labelled
        return frozenset({MOTION})

    def value(self, seen: Seen) -> Tensor:
        """Compare every frame with its partner."""
        neighbours, images, stride = seen.neighbours, seen.batch.images, seen.stride
        now, later = neighbours.pairs.unbind(1)
        flow, weight = neighbours.flow, self._weight(seen)
        if self.at == "cells":
            flow = at_centres(flow, stride) / stride
            weight = None if weight is None else cell_means(weight, stride)
            logits, shown = seen.output.logits, seen.mask
        else:
            height, width = images.shape[2:]
            logits = upsample_logits(seen.output.logits, stride, (height, width))
            shown = seen.pixel_mask
        motion = Motion(flow, weight, shown[later])
        try:
            return temporal(
                logits[now], logits[later], motion, variant=self.variant, mask=shown[now]
            )
        except ArtifactError as error:
            raise ArtifactError(
                f"term {self.label} on stream {seen.batch.stream}: {error}"
            ) from error

    def _weight(self, seen: Seen) -> Tensor | None:
        """(P, 1, H, W): V of every pixel of the pairs; None: 1 everywhere."""
        neighbours = seen.neighbours
        if self.occlusion == "none":
            return None
        visible = neighbours.visible.to(neighbours.flow.dtype)
        if self.occlusion == "visible":
            return visible
        now, later = neighbours.pairs.unbind(1)
        images = seen.batch.images
        mean, deviation = (
            images.new_tensor(each).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD)
        )
        images = (images - mean) / deviation
        finite = torch.isfinite(neighbours.flow).all(1, keepdim=True)
        weight = photometric_weight(
            images[now],
            images[later],
            neighbours.flow.masked_fill(~finite, 0),
            channels="summed" if self.variant == "released" else "apart",
        ).masked_fill(~finite, 0)
        return weight * visible if self.occlusion == "both" else weight
