"""From pairs of frames to the motion between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from stillroom.stages.cache.items import CanvasPair
    from stillroom.stages.models.flow.flow_model import FlowModel


@dataclass(frozen=True)
class FlowOfPairs:
    """Runs a flow model on pairs of canvas frames.

    limit: pixels; longer displacements are cut to it
    """

    model: FlowModel
    limit: float = float("inf")

    def __call__(self, pairs: Sequence[CanvasPair]) -> list[dict[str, NDArray[np.generic]]]:
        """The flow (2, H, W) float32 from each frame to its partner, in canvas pixels, in order."""
        frames = np.stack([pair.frame.image for pair in pairs])
        partners = np.stack([pair.partner.image for pair in pairs])
        flow = self.model.flow(frames, partners).clamp(-self.limit, self.limit)
        return [{"flow": each} for each in flow.cpu().numpy()]
