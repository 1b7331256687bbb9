"""Optical flow in colour: the hue is the direction, the saturation the length.

Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011, the colour code
of its fig. 5, as torchvision paints it: no flow is white, the longest vector has a full hue. What
is longer than the scale is darkened to three quarters, as their own code does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNKNOWN = 1e9  # pixels; Middlebury's files mark unknown flow by more than this


def flow_colours(flow: NDArray[np.floating], longest: float | None = None) -> NDArray[np.uint8]:
    """Paint a flow.

    Args:
        flow: (2, H, W) pixels, u to the right and v down.
        longest: length in pixels that gets a full hue; the flow's own longest if left out. Pass
            one number for pictures that are to be compared.

    Returns:
        (H, W, 3) uint8, RGB; black where the flow is not finite, or beyond 1e9.

    Raises:
        ArtifactError: the flow has another shape or dtype, or `longest` is not above 0.
    """
    from stillroom.stages.models.torchvision_import import import_torchvision

    if flow.ndim != 3 or flow.shape[0] != 2 or flow.dtype.kind != "f":
        raise ArtifactError(f"a flow is (2, H, W), floating; got {flow.shape} {flow.dtype}")
    if longest is not None and not longest > 0:
        raise ArtifactError(f"longest must be above 0 pixels, got {longest}")
    import_torchvision()
    from torchvision.utils import flow_to_image

    known = (np.isfinite(flow) & (np.abs(flow) <= UNKNOWN)).all(0)
    vectors = np.where(known, flow, 0).astype(np.float32)
    length = np.hypot(*vectors)
    full = (length.max(initial=0) if longest is None else longest) or 1.0
    beyond = length > full
    vectors[:, beyond] *= full / length[beyond]
    scale = np.zeros_like(vectors, shape=(2, 1, flow.shape[2]))
    scale[0] = full  # a row more, which sets the scale of torchvision's picture
    painted = flow_to_image(torch.from_numpy(np.concatenate([vectors, scale], axis=1)))
    coloured: NDArray[np.uint8] = painted[:, :-1].permute(1, 2, 0).contiguous().numpy()
    coloured[beyond] = coloured[beyond] * 0.75
    coloured[~known] = 0
    return coloured


def flow_picture(flow: NDArray[np.floating], longest: float) -> NDArray[np.uint8]:
    """Paint a flow, with the wheel that explains it in its lower left corner."""
    picture = flow_colours(flow, longest or None)
    height, width = picture.shape[:2]
    side = min(height, width) // 4
    if side >= 9:
        wheel, disc = wheel_picture(side)
        picture[height - side - 2 : height - 2, 2 : side + 2][disc] = wheel[disc]
    return picture


def wheel_picture(side: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paint all directions up to the longest, (side, side, 3), and the mask of their disc."""
    across = (np.arange(side) - (side - 1) / 2) / (max(side - 1, 1) / 2)
    flow = np.stack(np.meshgrid(across, across))  # (2, side, side): u, v
    return flow_colours(flow, longest=1.0), np.hypot(*flow) <= 1


def longest_of(flow: NDArray[np.floating]) -> float:
    """Return the 99.5th percentile of lengths: one wild vector would bleach all others."""
    length = np.hypot(*flow)
    finite = length[np.isfinite(length)]
    return float(np.percentile(finite, 99.5)) if finite.size else 0.0
