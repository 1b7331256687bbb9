"""Writes what `stillroom predict` finds of depth: maps of millimetres, pictures and films."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from stillroom.pipeline.prediction_writer import PredictionWriter, write_png
from stillroom.stages.evaluate.predict import (
    SkippedFrame,
    StudentPredictor,
    at_size,
    full_outputs,
)
from stillroom.stages.models.task_heads import DepthHead
from stillroom.stages.pictures.palette import heat
from stillroom.stages.sources.canvas import to_canvas
from stillroom.stages.torch_state import best_device
from stillroom.storage_specs.artifacts import DEPTH
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.pipeline.open_model import TrainedStudent
    from stillroom.stages.sources.source import Frame

MILLIMETRES = 1000  # of a metre; a PNG of uint16 ends at 65.535 m
BRIGHTEST = 10.0  # metres, of a head without bins


class DepthWriter(PredictionWriter):
    """Writes the depth that a student tells below a folder: PNGs of uint16, in millimetres."""

    folder = DEPTH

    def __init__(self, out: Path, trained: TrainedStudent) -> None:
        """Take the folder and the student, which goes to the device that there is."""
        self._out = out
        head = trained.student.heads[DEPTH]
        has_bins = isinstance(head, DepthHead) and head.bins
        self._most = head.high if isinstance(head, DepthHead) and has_bins else BRIGHTEST
        height, width = trained.config["cache"]["canvas"]
        self._canvas = (height, width)
        self._predictor = StudentPredictor(trained.student.to(best_device()).eval(), DEPTH)

    def write(self, name: str, loaded: Frame) -> None:
        """Predict a frame, and write its depth and a picture of it, in colours of one scale."""
        depth = self.depth_of(loaded)
        stored = (depth * MILLIMETRES).round().clip(0, np.iinfo(np.uint16).max)
        write_png(self._labels(name), Image.fromarray(stored.astype(np.uint16)))
        shade = (255 * depth / self._most).round().clip(0, 255).astype(np.uint8)
        write_png(self._overlay(name), Image.fromarray(heat()[shade]))

    def depth_of(self, loaded: Frame) -> NDArray[np.float32]:
        """Return metres at a frame's own pixels, (H, W)."""
        fitted = to_canvas(loaded, self._canvas)
        found = next(full_outputs(self._predictor, [fitted], 1))
        if isinstance(found, SkippedFrame):
            raise FrameError(found.reason)
        rows, columns = loaded.image.shape[:2]
        seen = at_size(found[1], fitted.valid, (rows, columns))
        return np.asarray(seen[0].cpu().numpy(), np.float32)
