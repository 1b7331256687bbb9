"""Labels at a frame's own pixels, whatever size the model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from stillroom.stages.sources.canvas import to_canvas
from stillroom.stages.upsample import highest_class
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.models.exported.about import Exported
    from stillroom.stages.sources.source import Frame


def labels_of(model: Exported, frame: Frame) -> NDArray[np.uint8]:
    """Fit a frame into what the model takes, and bring what it says back to the frame's size.

    Returns:
        (H, W) uint8, classes of the highest logit; logits are resized, bilinear, and not labels

    Raises:
        FrameError: the frame has no pixels.
        ArtifactError: the logits are not finite.
    """
    fitted = to_canvas(frame, model.about.size)
    made = model.run(torch.from_numpy(np.ascontiguousarray(fitted.image))[None])
    if not bool(torch.isfinite(made["logits"]).all()):
        raise ArtifactError(
            f"logits of {frame.frame_id} are not finite: the model has diverged; take an earlier "
            "checkpoint"
        )
    size, (height, width) = frame.image.shape[:2], fitted.valid
    labels = made["labels"][0]
    if size != model.about.size:
        labels = highest_class(made["logits"][0, :, :height, :width], size)
    return np.asarray(labels.cpu().numpy(), np.uint8)
