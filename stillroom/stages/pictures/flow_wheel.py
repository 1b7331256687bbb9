"""Optical flow in colour: the hue is the direction, the saturation the length.

Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011, the colour code
of its fig. 5: 55 hues in six unequal arcs, after what the eye tells apart. No motion is white, the
longest is a full hue, and what is longer than the scale is darkened to three quarters.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.pictures.palette import BLACK
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# From one colour to the next in so many hues: red, yellow, green, cyan, blue, magenta, red.
ARCS = (15, 6, 4, 11, 13, 6)
CORNERS = ((255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255))
UNKNOWN = 1e9  # pixels; Middlebury's files mark unknown flow by more than this


@lru_cache(maxsize=1)
def wheel() -> NDArray[np.uint8]:
    """The 55 hues, (55, 3) uint8 RGB, from red through yellow, green, cyan, blue and magenta."""
    hues = []
    for index, hue_count in enumerate(ARCS):
        start, end = np.array(CORNERS[index]), np.array(CORNERS[(index + 1) % len(CORNERS)])
        along = 255 * np.arange(hue_count) // hue_count  # rounded down, as the published code does
        rising, falling = end > start, end < start
        hues.append(start + along[:, None] * rising - along[:, None] * falling)
    return np.concatenate(hues).astype(np.uint8)


def flow_colours(flow: NDArray[np.floating], longest: float | None = None) -> NDArray[np.uint8]:
    """Paint a flow.

    Args:
        flow: (2, H, W) pixels, u to the right and v down.
        longest: length in pixels that gets a full hue; the flow's own longest if left out. Pass
            one number for pictures that are to be compared.

    Returns:
        (H, W, 3) uint8, RGB; black where the flow is not finite, or beyond 1e9.

    Raises:
        ArtifactError: the flow is no (2, H, W), or `longest` is not above 0.
    """
    if flow.ndim != 3 or flow.shape[0] != 2 or flow.dtype.kind != "f":
        raise ArtifactError(f"a flow is (2, H, W), floating; got {flow.shape} {flow.dtype}")
    if longest is not None and not longest > 0:
        raise ArtifactError(f"longest must be above 0 pixels, got {longest}")
    wide = flow.astype(np.float64)
    known = (np.isfinite(wide) & (np.abs(wide) <= UNKNOWN)).all(0)
    u, v = np.where(known, wide, 0)
    length = np.hypot(u, v)
    scale = (length.max(initial=0) if longest is None else longest) or 1.0
    painted = _hues(u, v)
    share = (length / scale)[..., None]
    painted = np.where(share <= 1, 1 - share * (1 - painted), 0.75 * painted)
    coloured = (255 * painted).astype(np.uint8)
    coloured[~known] = BLACK
    return coloured


def wheel_picture(side: int) -> NDArray[np.uint8]:
    """The colours of all directions up to the longest, in a disc on white, (side, side, 3)."""
    across = (np.arange(side) - (side - 1) / 2) / (max(side - 1, 1) / 2)
    flow = np.stack(np.meshgrid(across, across))  # (2, side, side): u, v
    picture = flow_colours(flow, longest=1.0)
    picture[np.hypot(*flow) > 1] = 255
    return picture


def _hues(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """The full hue of each direction, (H, W, 3) in 0..1, between two neighbours on the wheel."""
    angle = np.arctan2(-v, -u) / np.pi  # -1..1
    position = (angle + 1) / 2 * (len(wheel()) - 1)
    lower = position.astype(np.intp)
    upper = (lower + 1) % len(wheel())
    share = (position - lower)[..., None]
    table = wheel() / 255
    mixed: NDArray[np.float64] = (1 - share) * table[lower] + share * table[upper]
    return mixed
