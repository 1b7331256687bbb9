"""What `stillroom predict` does with a webcam: until it is told to stop, and then a film."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING

from stillroom.stages.sources.source import Frame
from stillroom.stages.train.interrupt import DeferredInterrupt
from stillroom.storage_specs.errors import ConfigError, FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stillroom.pipeline.prediction_writer import PredictionWriter
    from stillroom.stages.sources.webcam import Webcam

LOG = logging.getLogger(__name__)
NAME = re.compile(r"webcam(?::(\d+))?")
CLIP = "webcam"


def webcam_of(inputs: Sequence[Path]) -> int | None:
    """Return the number of the webcam that is named; None where files are.

    A file or folder of that name is itself.

    Raises:
        ConfigError: there are other inputs beside it.
    """
    named = [NAME.fullmatch(str(path)) for path in inputs if not path.exists()]
    cameras = [int(one[1] or 0) for one in named if one is not None]
    if cameras and len(inputs) > 1:
        raise ConfigError("a webcam goes on until it is stopped: leave out the other inputs")
    return cameras[0] if cameras else None


def record(
    camera: Webcam,
    writer: PredictionWriter,
    frames: int | None,
    fps: float | None,
    on_frames: Callable[[int, int], None],
) -> tuple[int, dict[str, str], Path]:
    """Predict frames as they come, and write a film that runs as fast as they came.

    Args:
        frames: how many to take; left out, until Ctrl-C
        fps: at most so many a second; those between are dropped

    Returns:
        how many were predicted, those that could not be, with reasons, and the film

    Raises:
        ConfigError: the camera gave none, or none could be predicted.
    """
    clip = writer.free_clip(CLIP)
    names: list[str] = []
    skipped: dict[str, str] = {}
    with DeferredInterrupt() as interrupt:
        began = time.monotonic()
        while len(names) != frames and interrupt.held_back() is None:
            image = camera.read()
            if image is None:
                LOG.warning("the camera gives no more frames")
                break
            if fps is not None and time.monotonic() - began < len(names) / fps:
                continue
            names.append(f"{clip}/{len(names):06d}")
            try:
                writer.write(names[-1], Frame(names[-1], image))
            except FrameError as error:
                skipped[names[-1]] = str(error)
            on_frames(len(names), frames or len(names))
        seconds = time.monotonic() - began
    if not names:
        raise ConfigError("the camera gave no frame: see whether another program shows its picture")
    shown = [name for name in names if name not in skipped]
    if not shown:
        name, reason = next(iter(skipped.items()))
        raise ConfigError(
            f"none of {len(names)} frames could be predicted; the first, {name}: {reason}"
        )
    rate = max(0.01, round(len(shown) / seconds, 2))  # MPEG-4 has no finer ones
    return len(shown), skipped, writer.film(clip, shown, rate)
