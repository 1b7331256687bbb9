"""A sheet of motion: two frames, the flow between them, how well it fits, and what it hides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from stillroom.stages.pictures.flow_wheel import flow_colours, wheel_picture
from stillroom.stages.pictures.sheet import Entry, Sheet, Tile, draw_sheet
from stillroom.stages.pictures.tiles import counted_frames
from stillroom.stages.warp import inside_frame, visible, warp
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.pictures.palette import Colour

HIDDEN: Colour = (230, 120, 20)
OUTSIDE: Colour = (40, 110, 200)


@dataclass(frozen=True, eq=False)
class FlowRow:
    """One pair of frames.

    Attributes:
        frame_id: name of the first.
        image: (H, W, 3) uint8, RGB, at t.
        other: (H, W, 3) uint8, at t+k.
        flow: (2, H, W) float32 pixels, t -> t+k.
        visible: (H, W) bool, True where t+k shows the pixel too; None where it is not known.
    """

    frame_id: str
    image: NDArray[np.uint8]
    other: NDArray[np.uint8]
    flow: NDArray[np.float32]
    visible: NDArray[np.bool_] | None = None


def visible_pixels(flow: NDArray[np.float32], back: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell (H, W) the pixels of frame t that t+k shows too.

    Args:
        flow: (2, H, W) pixels, t -> t+k.
        back: (2, H, W) pixels, t+k -> t.
    """
    seen = visible(torch.from_numpy(flow)[None], torch.from_numpy(back)[None])
    return np.asarray(seen[0, 0].numpy(), np.bool_)


def flow_sheet(
    path: Path,
    rows: Sequence[FlowRow],
    *,
    longest: float | None = None,
    title: str = "Motion",
) -> Path:
    """Draw pairs of frames and the flow between them as a PNG.

    Columns: both frames, the flow in Middlebury's colours with their wheel, the two frames laid
    over each other as they are, then along the flow (the first in red, the second in cyan: grey
    where they agree), and the pixels that t+k does not show. Edges in colour in the fifth column
    are faults of the flow.

    Args:
        path: of the PNG; its folder is made.
        rows: the pairs.
        longest: length in pixels that gets a full hue; the longest of all rows if left out.
        title: the first line.

    Raises:
        ConfigError: there are no rows.
        ArtifactError: arrays that do not fit together.
    """
    if not rows:
        raise ConfigError("a sheet needs at least one pair of frames to show")
    for row in rows:
        _demand_fit(row)
    scale = max(longest_of(row.flow) for row in rows) if longest is None else longest
    known = any(row.visible is not None for row in rows)
    columns = [
        "frame at t",
        "frame at t+k",
        f"flow, full colour at {scale:.1f} px",
        "t red, t+k cyan",
        "the same along the flow",
        "not to be seen at t+k",
    ]
    legend = [Entry(OUTSIDE, "leaves the frame")] + ([Entry(HIDDEN, "hidden")] if known else [])
    return draw_sheet(
        Sheet(
            title=title,
            subtitle=counted_frames([row.image.shape[:2] for row in rows]).replace("frame", "pair"),
            columns=tuple(columns),
            rows=tuple(_tiles(row, scale) for row in rows),
            legend_title="",
            legend=tuple(legend),
        ),
        path,
    )


def laid_over(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One image in red, another in cyan, (H, W, 3): grey where they are equally bright."""
    red, cyan = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (image, other))
    return np.stack([red, cyan, cyan], axis=2)


def warped_image(other: NDArray[np.uint8], flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image at t+k brought to t, (H, W, 3) uint8."""
    pixels = torch.from_numpy(other.copy()).permute(2, 0, 1)[None].float()
    warped = warp(pixels, torch.from_numpy(flow)[None])[0].permute(1, 2, 0)
    return warped.round().to(torch.uint8).numpy()


def hidden_map(
    image: NDArray[np.uint8], flow: NDArray[np.float32], visible: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    """The greyed frame; what leaves it in blue, what is hidden inside of it in orange."""
    grey = 120 + image.mean(2, keepdims=True) * (135 / 255)  # (H, W, 1)
    painted = np.repeat(grey, 3, axis=2)
    inside = inside_frame(torch.from_numpy(flow)[None])[0, 0].numpy()
    if visible is not None:
        painted[inside & ~visible] = HIDDEN
    painted[~inside] = OUTSIDE
    return painted.round().astype(np.uint8)


def flow_picture(flow: NDArray[np.float32], longest: float) -> NDArray[np.uint8]:
    """A flow in colour, with the wheel that explains it in its lower left corner."""
    picture = flow_colours(flow, longest or None)
    height, width = picture.shape[:2]
    side = min(height, width) // 4
    if side >= 9:
        wheel = wheel_picture(side)
        across = np.arange(side) - (side - 1) / 2
        disc = np.hypot(across[:, None], across[None, :]) <= side / 2
        corner = picture[height - side - 2 : height - 2, 2 : side + 2]
        corner[disc] = wheel[disc]
    return picture


def _tiles(row: FlowRow, longest: float) -> tuple[Tile, ...]:
    warped = warped_image(row.other, row.flow)
    share = "" if row.visible is None else f"{float(row.visible.mean()):.1%} visible"
    return (
        Tile(row.image, row.frame_id, smooth=True),
        Tile(row.other, smooth=True),
        Tile(
            flow_picture(row.flow, longest), f"longest {longest_of(row.flow):.1f} px", smooth=True
        ),
        Tile(laid_over(row.image, row.other), _apart(row.image, row.other), smooth=True),
        Tile(laid_over(row.image, warped), _apart(row.image, warped), smooth=True),
        Tile(hidden_map(row.image, row.flow, row.visible), share),
    )


def _apart(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> str:
    difference = np.abs(image.astype(np.int16) - other)
    return f"{float(difference.mean()):.1f} of 255 apart"


def longest_of(flow: NDArray[np.float32]) -> float:
    """The 99.5th percentile of lengths in pixels: one wild vector would bleach all others."""
    length = np.hypot(*flow)
    finite = length[np.isfinite(length)]
    return float(np.percentile(finite, 99.5)) if finite.size else 0.0


def _demand_fit(row: FlowRow) -> None:
    size = row.image.shape[:2]
    shapes = {"image": (*size, 3), "other": (*size, 3), "flow": (2, *size), "visible": size}
    for name, expected in shapes.items():
        array = getattr(row, name)
        if array is not None and array.shape != expected:
            raise ArtifactError(
                f"{row.frame_id}: {name}: expected {expected}, got {tuple(array.shape)}"
            )
