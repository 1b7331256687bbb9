"""Run a model over a clip, one frame at a time, and measure how steady it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.evaluate.temporal_consistency import Consistency, TemporalConsistency
from stillroom.stages.evaluate.warping_error import WarpingError
from stillroom.stages.geometry import upsample_logits
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.evaluate.predict import Predictor


@dataclass(frozen=True, eq=False)
class Step:
    """The motion from one frame of a clip to the next, in pixels of the frames.

    flow: (1, 2, H, W), t -> t+1
    visible: (1, 1, H, W) bool, True where t+1 shows the pixel too; None where it is not known
    """

    flow: Tensor
    visible: Tensor | None = None


@dataclass(frozen=True)
class ClipResult:
    """What a model is worth on a clip, without labels.

    Attributes:
        consistency: TC and its curve.
        stability: Tsb, the mean flow warping error of the class probabilities; less is steadier.
        frame_error: the same of the frames in 0..1, the flow's own fault; alike for all models.
        predictions: uint8 (T, H, W), the class of every pixel.
    """

    consistency: Consistency
    stability: float
    frame_error: float
    predictions: Tensor

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain JSON values, without the predictions."""
        return {
            "consistency": self.consistency.to_dict(),
            "stability": self.stability,
            "frame_error": self.frame_error,
        }


def measure_clip(
    predictor: Predictor, frames: Sequence[NDArray[np.uint8]], steps: Iterable[Step]
) -> ClipResult:
    """Predict every frame by itself, and follow the predictions along the flow.

    Two frames' probabilities are held at a time, and the classes of all.

    predictor: the model; see `StudentPredictor` and `TeacherPredictor`
    frames: T images (H, W, 3) uint8 RGB of one size, in the order of time; without padding
    steps: T - 1, computed once for all models that are to be compared
    raises: ConfigError where there are fewer than 2 frames, or not one step between any two;
        ArtifactError where shapes do not fit or logits are not finite
    """
    if len(frames) < 2:
        raise ConfigError(f"a clip has 2 or more frames, got {len(frames)}")
    before, image = _probabilities(predictor, frames[0]), _image(frames[0])
    consistency = TemporalConsistency(before.shape[1])
    stability, frame_error = WarpingError(), WarpingError()
    classes = [_classes(before)]
    for index, step in enumerate(_one_each(steps, len(frames) - 1), start=1):
        after, image_after = _probabilities(predictor, frames[index]), _image(frames[index])
        flow = step.flow.to(after.device)
        seen = None if step.visible is None else step.visible.to(after.device)
        classes.append(_classes(after))
        consistency.add(
            classes[-2].to(flow.device), classes[-1].to(flow.device), flow, visible=seen
        )
        stability.add(before, after, flow, visible=seen)
        frame_error.add(image.to(flow.device), image_after.to(flow.device), flow, visible=seen)
        before, image = after, image_after
    return ClipResult(
        consistency.scores(), stability.mean(), frame_error.mean(), torch.cat(classes)
    )


def _one_each(steps: Iterable[Step], count: int) -> Iterator[Step]:
    """The steps, of which there must be `count`."""
    given = 0
    for step in steps:
        given += 1
        if given > count:
            break
        yield step
    if given != count:
        raise ConfigError(
            f"{count + 1} frames have {count} steps between them, got "
            f"{given if given < count else 'more'}"
        )


def _probabilities(predictor: Predictor, frame: NDArray[np.uint8]) -> Tensor:
    """(1, C, H, W) float32 class probabilities at the frame's pixels."""
    logits, stride = predictor(frame[None])
    if not bool(torch.isfinite(logits).all()):
        raise ArtifactError(
            "logits are not finite: the model has diverged, or its precision is too low"
        )
    height, width = frame.shape[:2]
    return upsample_logits(logits.float(), stride, (height, width)).softmax(1)


def _classes(probabilities: Tensor) -> Tensor:
    return probabilities.argmax(1).to(torch.uint8).cpu()


def _image(frame: NDArray[np.uint8]) -> Tensor:
    """(1, 3, H, W) float32 in 0..1."""
    return torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 255
