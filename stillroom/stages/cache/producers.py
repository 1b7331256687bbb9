"""What makes the artifacts of a set: canvas frames, or pairs of them, in; arrays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from stillroom.stages.cache.device_copy import stacked, start_of, to_host
from stillroom.stages.models.makers import artifact_shapes, make_artifacts
from stillroom.storage_specs.artifacts import FLOW, FRAMES, LABELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.cache.inputs import CanvasPair
    from stillroom.stages.models.flow.flow_model import FlowModel
    from stillroom.stages.models.teacher import Teacher
    from stillroom.stages.sources.canvas import CanvasFrame

    Arrays = dict[str, NDArray[np.generic]]


class Producer(Protocol):
    """Makes the arrays of a set's rows."""

    def __call__(self, inputs: Sequence[Any], /) -> Sequence[Arrays]:
        """Return artifacts by name, one dict an input, in the order of `inputs`."""


def frames_and_targets(frames: Sequence[CanvasFrame]) -> list[Arrays]:
    """Return the canvas frames and, where there are some, their labels and other targets."""
    made: list[Arrays] = [{FRAMES: frame.image} for frame in frames]
    for arrays, frame in zip(made, frames, strict=True):
        if frame.label is not None:
            arrays[LABELS] = frame.label
        arrays |= frame.targets
    return made


@dataclass(frozen=True)
class FlowOfPairs:
    """Runs a flow model on pairs of canvas frames.

    Attributes:
        limit: pixels; longer displacements are cut to it
    """

    model: FlowModel
    limit: float = float("inf")

    def __call__(self, pairs: Sequence[CanvasPair]) -> Sequence[Arrays]:
        """Return the flow (2, H, W) float32 from each frame to its partner, in canvas pixels."""
        device = self.model.device
        began = start_of(device)
        frames = stacked([pair.frame.image for pair in pairs], device)
        partners = stacked([pair.partner.image for pair in pairs], device)
        flow = self.model.flow(frames, partners).clamp(-self.limit, self.limit)
        return to_host([{FLOW: each} for each in flow], began)


@dataclass(frozen=True)
class TeacherArtifacts:
    """Runs a teacher on canvas frames and makes the artifacts that were asked for.

    Attributes:
        artifacts: names as in the run file: "logits", "features/<layer>", "pseudo_label",
            "confidence", "pixel_confidence"
        threshold: of pseudo labels, see `makers.Output`
    """

    teacher: Teacher
    artifacts: tuple[str, ...]
    threshold: float

    def __call__(self, frames: Sequence[CanvasFrame]) -> Sequence[Arrays]:
        """Return the artifacts of each frame, in order: float32, or uint8 of pseudo labels.

        Raises:
            ConfigError: the teacher has no such output, or more classes than a byte can tell apart.
        """
        device = self.teacher.device
        began = start_of(device)
        output = self.teacher(stacked([frame.image for frame in frames], device))
        made = [
            make_artifacts(
                self.teacher, output, place, self.artifacts, _shown(frame, device), self.threshold
            )
            for place, frame in enumerate(frames)
        ]
        return to_host(made, began)

    def shapes(self, canvas: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], int]]:
        """Find shape and stride of a frame's artifacts."""
        return artifact_shapes(self.teacher, self.artifacts, canvas, self.threshold)


def _shown(frame: CanvasFrame, device: str) -> Tensor:
    """Mark the pixels that are not padding: (H, W) bool."""
    shown = torch.zeros(frame.image.shape[:2], dtype=torch.bool, device=device)
    shown[: frame.valid[0], : frame.valid[1]] = True
    return shown
