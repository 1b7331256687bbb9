"""Heads of students by task: what each is set to, and what it makes of its convolution's output.

A head is one convolution and a function of what that gives. The first task's is the network's own
classifier, the others read the penultimate features (`Student.take_heads`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from stillroom.stages.settings import Settings
from stillroom.storage_specs.artifacts import DEPTH, FEATURES, LOGITS, NORMALS

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput

DEPTH_LOGITS = "depth_logits"
TASK_OF = {LOGITS: "segmentation", DEPTH: DEPTH, DEPTH_LOGITS: DEPTH, NORMALS: NORMALS}
"""The task of each grid that a head gives."""

FURTHEST = 12.0  # of the logarithm of a depth that is regressed: e^12 metres


class HeadSettings(Settings):
    """What the heads of all tasks have.

    Attributes:
        task: its name, that of its section
    """

    task: ClassVar[str]

    def channels(self, classes: int) -> int:
        """Return the channels of its convolution.

        Args:
            classes: of the labels
        """
        raise NotImplementedError

    def outputs(self, grid: Tensor) -> ModelOutput:
        """Return what the head gives, by name.

        Args:
            grid: (B, channels, h, w), of its convolution
        """
        raise NotImplementedError


class SegmentationHead(HeadSettings):
    """Gives "logits" (B, C, h, w)."""

    task = "segmentation"

    def channels(self, classes: int) -> int:
        return classes

    def outputs(self, grid: Tensor) -> ModelOutput:
        return {LOGITS: grid}


class DepthHead(HeadSettings):
    """Gives "depth" (B, 1, h, w) in metres; with bins also "depth_logits" (B, bins, h, w).

    depth = exp(sum_k p_k log c_k),  p = softmax of the bins' logits
    c_k: centre of bin k, of bins of one width in log depth from `low` to `high`

    Yin et al., "Enforcing Geometric Constraints of Virtual Normal for Depth Prediction", ICCV 2019,
    arXiv:1907.12209, as its released code takes the mean: of the logarithm.

    Attributes:
        bins: 0 regresses: depth = exp of one channel
        low, high: metres, of the bins; what lies beyond counts as the nearest bin
    """

    task = "depth"
    bins: int = Field(default=80, ge=0)
    low: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    high: float = Field(default=10.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _bins_have_bounds(self) -> DepthHead:
        if self.bins == 1:
            raise ValueError("bins = 1 knows one depth; take 2 or more, or 0 to regress")
        stated = sorted(self.model_fields_set & {"low", "high"})
        if not self.bins and stated:
            raise ValueError(f"{' and '.join(stated)} are of bins, and bins = 0; leave out")
        if self.low >= self.high:
            raise ValueError(f"low = {self.low} m must be below high = {self.high} m")
        return self

    def channels(self, classes: int) -> int:
        return self.bins or 1

    def log_centres(self) -> list[float]:
        """Return the logarithm of each bin's centre, of its depth in metres, in rising order."""
        low, width = math.log(self.low), math.log(self.high / self.low) / self.bins
        return [low + (k + 0.5) * width for k in range(self.bins)]

    def outputs(self, grid: Tensor) -> ModelOutput:
        import torch

        if not self.bins:
            # float16, in which a student may be computed, ends at 65504.
            return {DEPTH: grid.float().clamp(-FURTHEST, FURTHEST).exp()}
        first, second, *_ = self.log_centres()
        # Made where the grid is: a copy from the host would hold up every step on a GPU.
        each = torch.arange(self.bins, device=grid.device, dtype=torch.float32)
        centres = (first + each * (second - first))[:, None, None]
        log_depth = (grid.float().softmax(1) * centres).sum(1, keepdim=True)
        return {DEPTH: log_depth.exp(), DEPTH_LOGITS: grid}


class NormalsHead(HeadSettings):
    """Gives "normals" (B, 3, h, w): unit vectors, x to the right, y down, z away."""

    task = NORMALS

    def channels(self, classes: int) -> int:
        return 3

    def outputs(self, grid: Tensor) -> ModelOutput:
        from torch.nn.functional import normalize

        return {NORMALS: normalize(grid.float(), dim=1)}


class FeaturesHead(HeadSettings):
    """Gives nothing by itself: the student learns features alone, by terms that project them.

    Its network's classifier is left as one channel that never learns.
    """

    task = FEATURES

    def channels(self, classes: int) -> int:
        return 1

    def outputs(self, grid: Tensor) -> ModelOutput:
        return {}


class HeadsConfig(Settings):
    """The heads of a student: one at least. The first that is given is the network's own."""

    segmentation: SegmentationHead | None = None
    depth: DepthHead | None = None
    normals: NormalsHead | None = None
    features: FeaturesHead | None = None

    @model_validator(mode="after")
    def _one_at_least(self) -> HeadsConfig:
        if not self.by_task():
            raise ValueError(f"name at least one task: {', '.join(type(self).model_fields)}")
        if self.features is not None and len(self.by_task()) > 1:
            raise ValueError(
                "features is of a student of features alone; leave it out: every one has features"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `features` out where there is none: it is younger than some caches and runs."""
        found: dict[str, Any] = handler(self)
        if self.features is None:
            found.pop("features", None)
        return found

    def by_task(self) -> dict[str, HeadSettings]:
        """Return the heads that are given."""
        found = ((task, getattr(self, task)) for task in type(self).model_fields)
        return {task: head for task, head in found if head is not None}
