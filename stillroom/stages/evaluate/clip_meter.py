"""How steady a model is along a clip, frame by frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stillroom.stages.evaluate.temporal_consistency import TemporalConsistency
from stillroom.stages.evaluate.warping_error import WarpingError
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.evaluate.clip_flow import FrameFlow
    from stillroom.stages.evaluate.predict import Predictor
    from stillroom.stages.evaluate.temporal_consistency import Consistency


class ClipMeter:
    """Compares what a model predicts from frame to frame; two frames' probabilities are held.

    Attributes:
        frames, pairs: predicted and compared so far
        consistency: TC and its curve
        stability: Tsb, the mean flow warping error of the class probabilities; less is steadier
        frame_error: the same of the frames in 0..1, the flow's own fault; alike for all models
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._before: tuple[Tensor, Tensor, Tensor] | None = None
        self.frames = self.pairs = 0
        self.consistency: TemporalConsistency | None = None
        self.stability, self.frame_error = WarpingError(), WarpingError()

    def add(
        self, frame: NDArray[np.uint8], flow: FrameFlow | None, valid: tuple[int, int] | None = None
    ) -> Tensor:
        """Predict a frame, and compare with the one before it.

        Args:
            frame: (H, W, 3) uint8 RGB
            flow: from the frame before to this one; None begins anew
            valid: height and width of the part that is no padding, at the top left: what is
                measured, and what the flow is of

        Returns:
            (1, h, w) uint8, the class of every pixel of that part

        Raises:
            ConfigError: flow leads to the first frame.
            ArtifactError: shapes do not fit, or logits are not finite.
        """
        height, width = frame.shape[:2] if valid is None else valid
        probabilities = _probabilities(self._predictor, frame)[:, :, :height, :width]
        pixels = torch.from_numpy(frame[:height, :width].copy())
        image = pixels.permute(2, 0, 1)[None].float() / 255  # (1, 3, H, W)
        classes = probabilities.argmax(1).to(torch.uint8).cpu()
        self.frames += 1
        if flow is not None:
            self._compare((probabilities, image, classes), flow)
            self.pairs += 1
        self._before = probabilities, image, classes
        return classes

    def _compare(self, after: tuple[Tensor, Tensor, Tensor], between: FrameFlow) -> None:
        if self._before is None:
            raise ConfigError("the first frame of a clip has no flow that leads to it")
        if self.consistency is None:
            self.consistency = TemporalConsistency(after[0].shape[1])
        device = after[0].device
        flow = between.flow.to(device)
        visible = None if between.visible is None else between.visible.to(device)
        (likely, image, classes), (likely_after, image_after, classes_after) = self._before, after
        self.consistency.add(classes.to(device), classes_after.to(device), flow, visible=visible)
        self.stability.add(likely, likely_after, flow, visible=visible)
        self.frame_error.add(image.to(device), image_after.to(device), flow, visible=visible)

    def result(self) -> tuple[Consistency, float, float]:
        """Return consistency, stability and frame error of all pairs so far.

        Raises:
            ArtifactError: no pixel of any pair counts.
        """
        if self.consistency is None:
            raise ArtifactError("no two of its frames could be compared")
        return self.consistency.scores(), self.stability.mean(), self.frame_error.mean()


def _probabilities(predictor: Predictor, frame: NDArray[np.uint8]) -> Tensor:
    """(1, C, H, W) float32 class probabilities at the frame's pixels."""
    logits, stride = predictor(frame[None])
    if not bool(torch.isfinite(logits).all()):
        raise ArtifactError(
            "logits are not finite: the model has diverged, or its precision is too low"
        )
    height, width = frame.shape[:2]
    return upsample_logits(logits.float(), stride, (height, width)).softmax(1)
