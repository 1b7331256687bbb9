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


class ClipMeter:
    """Follows what a model says from frame to frame; two frames' probabilities are held.

    frames, pairs: predicted and compared so far
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._before: tuple[Tensor, Tensor, Tensor] | None = None
        self.frames = self.pairs = 0
        self.consistency: TemporalConsistency | None = None
        self.stability, self.frame_error = WarpingError(), WarpingError()

    def add(
        self, frame: NDArray[np.uint8], step: Step | None, valid: tuple[int, int] | None = None
    ) -> Tensor:
        """Predict a frame, and compare with the one before it.

        frame: (H, W, 3) uint8 RGB
        step: the motion from the frame before to this one; None begins anew
        valid: height and width of the part that is no padding, at the top left: what is measured,
            and what the motion is of
        returns: (1, h, w) uint8, the class of every pixel of that part

        Raises:
            ConfigError: there is a step to the first frame.
            ArtifactError: shapes do not fit, or logits are not finite.
        """
        height, width = frame.shape[:2] if valid is None else valid
        probabilities = _probabilities(self._predictor, frame)[:, :, :height, :width]
        image = _image(frame[:height, :width])
        classes = probabilities.argmax(1).to(torch.uint8).cpu()
        self.frames += 1
        if step is not None:
            self._compare((probabilities, image, classes), step)
            self.pairs += 1
        self._before = probabilities, image, classes
        return classes

    def _compare(self, after: tuple[Tensor, Tensor, Tensor], step: Step) -> None:
        if self._before is None:
            raise ConfigError("the first frame of a clip has no motion that leads to it")
        if self.consistency is None:
            self.consistency = TemporalConsistency(after[0].shape[1])
        device = after[0].device
        flow = step.flow.to(device)
        seen = None if step.visible is None else step.visible.to(device)
        (likely, image, classes), (likely_after, image_after, classes_after) = self._before, after
        self.consistency.add(classes.to(device), classes_after.to(device), flow, visible=seen)
        self.stability.add(likely, likely_after, flow, visible=seen)
        self.frame_error.add(image.to(device), image_after.to(device), flow, visible=seen)

    def result(self) -> tuple[Consistency, float, float]:
        """Consistency, stability and frame error of all pairs so far; see `ClipResult`.

        Raises:
            ArtifactError: no pixel of any pair counts.
        """
        if self.consistency is None:
            raise ArtifactError("no two of its frames could be compared")
        return self.consistency.scores(), self.stability.mean(), self.frame_error.mean()


def measure_clip(
    predictor: Predictor, frames: Sequence[NDArray[np.uint8]], steps: Iterable[Step]
) -> ClipResult:
    """Predict every frame by itself, and follow the predictions along the flow.

    predictor: the model; see `StudentPredictor` and `TeacherPredictor`
    frames: T images (H, W, 3) uint8 RGB of one size, in the order of time; without padding
    steps: T - 1, computed once for all models that are to be compared
    raises: ConfigError where there are fewer than 2 frames, or not one step between any two;
        ArtifactError where shapes do not fit or logits are not finite
    """
    if len(frames) < 2:
        raise ConfigError(f"a clip has 2 or more frames, got {len(frames)}")
    meter = ClipMeter(predictor)
    classes = [meter.add(frames[0], None)]
    for frame, step in zip(frames[1:], _one_each(steps, len(frames) - 1), strict=True):
        classes.append(meter.add(frame, step))
    return ClipResult(*meter.result(), torch.cat(classes))


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


def _image(frame: NDArray[np.uint8]) -> Tensor:
    """(1, 3, H, W) float32 in 0..1."""
    return torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 255
