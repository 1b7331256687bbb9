"""From a teacher's output for a batch to the artifacts of each frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.cache.makers import MAKERS, Output
from stillroom.stages.sources.canvas import CanvasFrame
from stillroom.storage_specs.artifacts import (
    ARTIFACTS,
    CONFIDENCE,
    IGNORE,
    LOGITS,
    PSEUDO_LABEL,
    artifact_of,
)
from stillroom.storage_specs.codecs import Encoded
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from stillroom.stages.models.dense_network import ModelOutput
    from stillroom.stages.models.teacher import Teacher

MOST_CLASSES = IGNORE  # of a pseudo label, a byte: 0 to 254


@dataclass(frozen=True)
class TeacherArtifacts:
    """Runs a teacher on canvas frames and makes the artifacts that were asked for.

    artifacts: names as in the run file: "logits", "features/<layer>", "pseudo_label", "confidence"
    threshold: of pseudo labels, see `makers.Output`
    """

    teacher: Teacher
    artifacts: tuple[str, ...]
    threshold: float

    def __call__(self, frames: Sequence[CanvasFrame]) -> list[dict[str, NDArray[np.generic]]]:
        """The artifacts of each frame, in order: float32 arrays, uint8 for pseudo-labels.

        Raises:
            ConfigError: the teacher has no such output, or more classes than a byte can tell apart.
        """
        output = self.teacher(np.stack([frame.image for frame in frames]))
        if LOGITS in output:
            demand_labels_fit(self.artifacts, output[LOGITS].shape[1])
        return [
            {name: self._of_frame(name, output, *each) for name in self.artifacts}
            for each in enumerate(frames)
        ]

    def _of_frame(
        self, artifact: str, output: ModelOutput, position: int, frame: CanvasFrame
    ) -> NDArray[np.generic]:
        name = output_of(artifact, output)
        of_frame = Output(output[name][position], self.teacher.strides[name], frame, self.threshold)
        made: NDArray[np.generic] = MAKERS[artifact_of(artifact).name](of_frame).cpu().numpy()
        return made

    def shapes(self, canvas: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], int]]:
        """Shape and stride of a frame's artifacts, from one forward pass on a black canvas."""
        made = self([CanvasFrame("", np.zeros((*canvas, 3), np.uint8), None, canvas)])[0]
        strides = self.teacher.strides
        return {
            name: (array.shape, strides[output_of(name, strides)])
            if artifact_of(name).has_stride
            else (array.shape, 1)
            for name, array in made.items()
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


def demand_labels_fit(artifacts: tuple[str, ...], classes: int, whose: str = "teacher") -> None:
    """Refuse pseudo labels of a teacher whose classes a byte cannot tell apart.

    Raises:
        ConfigError: they are wanted, and some class would be written as another, or as "ignore".
    """
    if PSEUDO_LABEL in artifacts and classes > MOST_CLASSES:
        raise ConfigError(
            f"{whose}: {classes} classes, but a pseudo_label is a byte: at most {MOST_CLASSES} "
            f"classes, for {IGNORE} says 'ignore'; take pseudo_label out of cache.artifacts, and "
            "learn from logits"
        )


def reason_unusable(arrays: dict[str, NDArray[np.generic]]) -> str | None:
    """Why a model's output may not be cached (a NaN or infinity somewhere), or None."""
    for artifact, values in arrays.items():
        if isinstance(values, Encoded):
            continue  # a codec has looked at it already
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int(values.size - np.isfinite(values).sum())
            return f"output {artifact} is not finite in {bad} of {values.size} values"
    return None


def mean_confidence(arrays: dict[str, NDArray[np.generic]], frame: CanvasFrame) -> float | None:
    """Mean of the highest class probability over the frame's valid area, or None if not cached."""
    confidence = arrays.get(CONFIDENCE)
    if confidence is None:
        return None
    if confidence.ndim != 2:
        raise ArtifactError(f"confidence: expected (h, w), got {confidence.shape}")
    rows = -(-confidence.shape[0] * frame.valid[0] // frame.image.shape[0])
    columns = -(-confidence.shape[1] * frame.valid[1] // frame.image.shape[1])
    return float(confidence[:rows, :columns].mean(dtype=np.float64))
