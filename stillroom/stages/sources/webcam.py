"""Frames of a camera of this machine, as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Webcam:
    """A camera that is open; used as a context, which closes it.

    Args:
        number: 0 is the first

    Raises:
        ConfigError: there is none, or another program has it.
    """

    def __init__(self, number: int) -> None:
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise ConfigError(
                f"webcam:{number}: no camera can be opened; see that it is plugged in, that no "
                f"other program uses it, and that you may (on Linux: read /dev/video{number})"
            )

    def read(self) -> NDArray[np.uint8] | None:
        """Wait for a frame: uint8 (H, W, 3), RGB; None where the camera gives no more."""
        came, image = self._capture.read()
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8) if came else None

    def __enter__(self) -> Webcam:
        """Return the camera itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the camera."""
        self._capture.release()
