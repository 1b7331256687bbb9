"""Bring a frame of any size to its source's canvas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import google_crc32c
import numpy as np

from stillroom.storage_specs.artifacts import BOXES, IGNORE
from stillroom.storage_specs.errors import ConfigError, FrameError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from stillroom.stages.sources.source import Frame

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, eq=False)
class CanvasFrame:
    """A frame on its canvas.

    Attributes:
        frame_id: the frame's name.
        image: uint8 (H, W, 3) RGB, 0 outside the valid area.
        label: uint8 (H, W), 255 outside the valid area; None in an unlabelled source.
        valid: (height, width) of the valid area, which starts at the top left corner.
        label_fault, faults: as of a `Frame`.
        targets: as of a `Frame`, 0 outside the valid area.
        own_label, own_targets: as its source gives them, where a score at that size wants them.
    """

    frame_id: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None
    valid: tuple[int, int]
    label_fault: str = ""
    own_label: NDArray[np.uint8] | None = None
    targets: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    own_targets: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why its label, or another target, cannot be used; "" where all can."""
        return "; ".join(dict.fromkeys(filter(None, (self.label_fault, *self.faults.values()))))

    def crc32c(self) -> int:
        """Checksum of the pixels, by which a changed source file is noticed."""
        return int(google_crc32c.value(np.ascontiguousarray(self.image).tobytes()))


def to_canvas(frame: Frame, canvas: tuple[int, int]) -> CanvasFrame:
    """Fit a frame into `canvas` (height, width) without distorting it.

    A frame of the canvas's size passes through as it is. Any other is resized until one side
    fits exactly and the other fits within: by area when it shrinks, bilinear when it grows, its
    targets to the nearest pixel centre, but for boxes, whose corners move with it. The rest, bottom
    and right, is 0 in the image and in targets, but 255 in the label.

    Raises:
        ConfigError: the canvas is not two positive integers.
        FrameError: the frame has no pixels.
    """
    if len(canvas) != 2 or any(side < 1 for side in canvas):
        raise ConfigError(f"a canvas is (height, width) of positive integers, got {canvas}")
    height, width = int(canvas[0]), int(canvas[1])
    rows, columns = frame.image.shape[:2]
    if rows == 0 or columns == 0:
        raise FrameError(f"{frame.frame_id}: the image has no pixels ({rows}x{columns})")
    if (rows, columns) == (height, width):
        return CanvasFrame(
            frame.frame_id, frame.image, frame.label, (height, width), frame.label_fault,
            targets=frame.targets, faults=frame.faults,
        )  # fmt: skip
    valid = fitted_size((rows, columns), (height, width))
    image = np.zeros((height, width, 3), np.uint8)
    image[: valid[0], : valid[1]] = _resize_image(frame.image, valid)
    label = None if frame.label is None else _on_canvas(frame.label, valid, (height, width), IGNORE)
    targets = {
        name: _scaled(target, valid, (rows, columns))
        if name == BOXES
        else _on_canvas(target, valid, (height, width), 0)
        for name, target in frame.targets.items()
    }
    return CanvasFrame(
        frame.frame_id, image, label, valid, frame.label_fault, targets=targets, faults=frame.faults
    )


def fitted_size(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """Return the largest (height, width) of `size`'s proportions in `canvas`, at least 1 x 1."""
    (rows, columns), (height, width) = size, canvas
    # in integers, so that every machine rounds alike
    if rows * width >= columns * height:  # the height binds
        return height, max(1, min(width, (2 * columns * height + rows) // (2 * rows)))
    return max(1, min(height, (2 * rows * width + columns) // (2 * columns))), width


def _resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    import cv2  # frames of the canvas's size, and students at work, go without it

    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=method), np.uint8)


def _scaled(
    boxes: NDArray[np.float32], size: tuple[int, int], of: tuple[int, int]
) -> NDArray[np.float32]:
    """Bring boxes (N, 5) from an image of one (height, width) to another."""
    across, down = size[1] / of[1], size[0] / of[0]
    return boxes * np.array([across, down, across, down, 1], np.float32)


def _on_canvas(
    target: NDArray[Number], valid: tuple[int, int], canvas: tuple[int, int], outside: int
) -> NDArray[Number]:
    """Bring a target (..., H, W) to the valid area of a canvas, by the nearest pixel."""
    # OpenCV's INTER_NEAREST takes the pixel's corner, half a pixel off from the image's centres
    rows, columns = (
        (2 * np.arange(size) + 1) * there // (2 * size)
        for size, there in zip(valid, target.shape[-2:], strict=True)
    )
    made = np.full((*target.shape[:-2], *canvas), outside, target.dtype)
    made[..., : valid[0], : valid[1]] = target[..., rows[:, None], columns[None, :]]
    return made
