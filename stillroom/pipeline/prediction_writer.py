"""Writes what `stillroom predict` finds: label maps, overlays and films."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from stillroom.stages.models.exported.own_size import labels_of
from stillroom.stages.pictures.film import write_film
from stillroom.stages.pictures.overlay import overlay
from stillroom.stages.sources.image_files import read_image
from stillroom.stages.train import run_folder
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stillroom.stages.models.exported.about import Exported
    from stillroom.stages.sources.source import Frame

LABELS, OVERLAYS = "labels", "overlays"


class PredictionWriter:
    """Writes the predictions of a model below a folder.

    Attributes:
        folder: of the maps, beside that of the overlays
    """

    folder = LABELS

    def __init__(self, out: Path, exported: Exported) -> None:
        """Take the folder and the model."""
        self._out, self._exported = out, exported
        self._colours = np.array(exported.about.colours, np.uint8)

    def free_clip(self, name: str) -> str:
        """Return the name for a clip, or the first of NAME-2, NAME-3 and so on that is free."""
        number, clip = 1, name
        while (self._out / self.folder / clip).exists():
            number += 1
            clip = f"{name}-{number}"
        return clip

    def has(self, name: str) -> bool:
        """Tell whether a frame is there; the overlay is written last."""
        return self._overlay(name).exists() and self._labels(name).exists()

    def write(self, name: str, loaded: Frame) -> None:
        """Predict a frame and write its labels, as a PNG with a palette, and its overlay."""
        labels = labels_of(self._exported, loaded)
        picture = Image.fromarray(labels)
        picture.putpalette(self._colours.tobytes())
        write_png(self._labels(name), picture)
        mixed = overlay(loaded.image, labels, self._colours)
        write_png(self._overlay(name), Image.fromarray(mixed))

    def film(self, clip: str, names: Sequence[str], rate: float) -> Path:
        """Write a film of the overlays of frames.

        Args:
            rate: frames a second

        Raises:
            ConfigError: they are of several sizes, or it cannot be written.
        """
        path = self._out / f"{clip}.mp4"
        overlays = (read_image(self._overlay(name)) for name in names)
        try:
            return write_film(path, overlays, frames_per_second=min(rate, 240.0))
        except ArtifactError as error:
            raise ConfigError(
                f"{path}: {error}; labels and overlays are written: leave --fps out for images of "
                "several sizes"
            ) from error

    def _labels(self, name: str) -> Path:
        return self._out / self.folder / f"{name}.png"

    def _overlay(self, name: str) -> Path:
        return self._out / OVERLAYS / f"{name}.png"


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a picture whole."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    run_folder.write_whole(path, buffer.getvalue())
