"""What makes the artifacts of a set: canvas frames, or pairs of them, in; arrays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stillroom.stages.cache.device_copy import stacked, start_of, to_host
from stillroom.stages.cache.makers import MAKERS, Output
from stillroom.stages.sources.canvas import CanvasFrame
from stillroom.storage_specs.artifacts import (
    ARTIFACTS,
    FLOW,
    FRAMES,
    IGNORE,
    LABELS,
    LOGITS,
    PSEUDO_LABEL,
    artifact_of,
)
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.cache.inputs import CanvasPair
    from stillroom.stages.models.dense_network import ModelOutput
    from stillroom.stages.models.flow.flow_model import FlowModel
    from stillroom.stages.models.teacher import Teacher

    Arrays = dict[str, NDArray[np.generic]]

MOST_CLASSES = IGNORE  # of a pseudo label, a byte: 0 to 254


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
        began = start_of(self.teacher.device)
        output = self.teacher(stacked([frame.image for frame in frames], self.teacher.device))
        if LOGITS in output:
            demand_labels_fit(self.artifacts, output[LOGITS].shape[1])
        made = [self._of_frame(output, *each) for each in enumerate(frames)]
        return to_host(made, began)

    def _of_frame(
        self, output: ModelOutput, position: int, frame: CanvasFrame
    ) -> dict[str, Tensor]:
        names = {artifact: output_of(artifact, output) for artifact in self.artifacts}
        of_frame = {  # one for all artifacts of a grid: what two of them need is computed once
            name: Output(output[name][position], self.teacher.strides[name], frame, self.threshold)
            for name in set(names.values())
        }
        return {
            artifact: MAKERS[artifact_of(artifact).name](of_frame[name])
            for artifact, name in names.items()
        }

    def shapes(self, canvas: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], int]]:
        """Find shape and stride of a frame's artifacts, by one forward pass on a black canvas."""
        frame = CanvasFrame("", np.zeros((*canvas, 3), np.uint8), None, canvas)
        output, strides = self.teacher(frame.image[None]), self.teacher.strides
        return {
            name: (
                tuple(made.shape),
                strides[output_of(name, strides)] if artifact_of(name).has_stride else 1,
            )
            for name, made in self._of_frame(output, 0, frame).items()
        }


def output_of(artifact: str, outputs: Collection[str]) -> str:
    """Find the teacher's output that an artifact is made from, among those that it gives.

    Raises:
        ConfigError: it gives no such output; the message lists what can be made of those it gives.
    """
    row = artifact_of(artifact)
    name = artifact if row.layered else row.output
    if name is None or name not in outputs:
        known = [each for each in MAKERS if ARTIFACTS[each].output in outputs]
        known += [each for each in outputs if artifact_of(each).layered]
        raise ConfigError(
            f"artifact {artifact!r}: this teacher has no such output; known: {', '.join(known)}"
        )
    return name


def demand_labels_fit(artifacts: tuple[str, ...], classes: int, name: str = "teacher") -> None:
    """Refuse pseudo labels of more classes than a byte can tell apart.

    Raises:
        ConfigError: they are wanted, and some class would be stored as another, or as "ignore".
    """
    if PSEUDO_LABEL in artifacts and classes > MOST_CLASSES:
        raise ConfigError(
            f"{name}: {classes} classes, but a pseudo_label is a byte: at most {MOST_CLASSES} "
            f"classes, for {IGNORE} says 'ignore'; take pseudo_label out of cache.artifacts, and "
            "learn from logits"
        )
