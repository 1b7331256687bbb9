"""From what a teacher says about a batch to the artifacts of each frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from stillroom.stages.geometry import upsample_logits
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.codecs import Encoded
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from stillroom.stages.models.teacher import Teacher, TeacherOutput
    from stillroom.stages.sources.canvas import CanvasFrame

MOST_CLASSES = IGNORE  # of a pseudo label, a byte: 0 to 254


@dataclass(frozen=True)
class TeacherArtifacts:
    """Runs a teacher on canvas frames and derives the artifacts that were asked for.

    artifacts: names as in the run file: "logits", "features/<layer>", "pseudo_label", "confidence"
    threshold: pixels whose highest class probability is below it get no pseudo-label (Xie et al.,
        "Improving Fast Segmentation With Teacher-student Learning", 2018, sec. 4.1: 0.7)
    """

    teacher: Teacher
    artifacts: tuple[str, ...]
    threshold: float

    def __call__(self, frames: Sequence[CanvasFrame]) -> list[dict[str, NDArray[np.generic]]]:
        """The artifacts of each frame, in order: float32 arrays, uint8 for pseudo-labels.

        Raises:
            ConfigError: the teacher has no such layer, or more classes than a pseudo label can say.
        """
        output = self.teacher(np.stack([frame.image for frame in frames]))
        return [self._of_frame(output, position, frame) for position, frame in enumerate(frames)]

    def _of_frame(
        self, output: TeacherOutput, position: int, frame: CanvasFrame
    ) -> dict[str, NDArray[np.generic]]:
        logits = output.logits[position].float()  # (C, h, w)
        made: dict[str, NDArray[np.generic]] = {}
        for artifact in self.artifacts:
            if artifact == "logits":
                made[artifact] = logits.cpu().numpy()
            elif artifact == "confidence":
                made[artifact] = logits.softmax(0).amax(0).cpu().numpy()  # (h, w)
            elif artifact == "pseudo_label":
                made[artifact] = self._pseudo_label(logits, frame)
            else:
                layer = layer_of(artifact, tuple(output.features))
                made[artifact] = output.features[layer][position].float().cpu().numpy()
        return made

    def _pseudo_label(self, logits: torch.Tensor, frame: CanvasFrame) -> NDArray[np.uint8]:
        """The class of each canvas pixel, 255 where unsure or outside the photo: (H, W)."""
        demand_labels_fit(self.artifacts, len(logits))
        height, width = frame.image.shape[:2]
        full = upsample_logits(logits[None], self.teacher.strides["logits"], (height, width))[0]
        best, label = full.softmax(0).max(0)  # (H, W)
        label = torch.where(best >= self.threshold, label, torch.full_like(label, IGNORE))
        kept = label.to(torch.uint8).cpu().numpy()
        kept[frame.valid[0] :] = IGNORE
        kept[:, frame.valid[1] :] = IGNORE
        return kept


def layer_of(artifact: str, layers: tuple[str, ...]) -> str:
    """The teacher's layer behind "features/<layer>".

    Raises:
        ConfigError: no such layer; the message lists those there are.
    """
    layer = artifact.removeprefix("features/")
    if layer == artifact or layer not in layers:
        known = ", ".join(
            ["logits", "pseudo_label", "confidence", *(f"features/{n}" for n in layers)]
        )
        raise ConfigError(f"artifact {artifact!r}: this teacher has no such output; known: {known}")
    return layer


def demand_labels_fit(artifacts: tuple[str, ...], classes: int, whose: str = "teacher") -> None:
    """Refuse pseudo labels of a teacher whose classes a byte cannot tell apart.

    Raises:
        ConfigError: they are wanted, and some class would be written as another, or as "ignore".
    """
    if "pseudo_label" in artifacts and classes > MOST_CLASSES:
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
    confidence = arrays.get("confidence")
    if confidence is None:
        return None
    if confidence.ndim != 2:
        raise ArtifactError(f"confidence: expected (h, w), got {confidence.shape}")
    rows = -(-confidence.shape[0] * frame.valid[0] // frame.image.shape[0])
    columns = -(-confidence.shape[1] * frame.valid[1] // frame.image.shape[1])
    return float(confidence[:rows, :columns].mean(dtype=np.float64))
