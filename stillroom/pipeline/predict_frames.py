"""`stillroom predict`: label maps, overlays and films of images and videos."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from stillroom.pipeline.export_student import about_of
from stillroom.pipeline.open_model import open_trained
from stillroom.pipeline.predict_inputs import open_inputs
from stillroom.stages.models.exported.about import Exported, is_export
from stillroom.stages.models.exported.formats import FORMATS
from stillroom.stages.models.exported.own_size import labels_of
from stillroom.stages.models.exported.student_program import StudentProgram, runner
from stillroom.stages.models.safetensors_file import read_metadata
from stillroom.stages.models.weights import weights_sha256
from stillroom.stages.pictures.film import write_film
from stillroom.stages.pictures.overlay import overlay, write_legend
from stillroom.stages.sources.image_files import read_image
from stillroom.stages.torch_state import best_device
from stillroom.stages.train import run_folder
from stillroom.storage_specs.errors import ArtifactError, ConfigError, FrameError, SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.pipeline.predict_inputs import InputFrame

ABOUT, LEGEND, LABELS, OVERLAYS = "predictions.json", "legend.png", "labels", "overlays"


@dataclass(frozen=True)
class PredictionResult:
    """What is in the folder of predictions.

    Attributes:
        predicted: frames of this call; found: those that were there before
        skipped: ids of frames that could not be used, with reasons
        films: of videos, and of images that were called a clip
    """

    out: Path
    model: str
    predicted: int
    found: int
    skipped: dict[str, str]
    films: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "out": str(self.out), "films": [str(one) for one in self.films]}


def predict(
    model: Path,
    inputs: Sequence[Path],
    out: Path,
    *,
    fps: float | None = None,
    on_frames: Callable[[int, int], None] = lambda done, total: None,
) -> PredictionResult:
    """Predict images, folders of images and videos; frames that are there already are kept.

    Args:
        model: a run folder, a checkpoint, or a file of `stillroom export`
        out: folder of ABOUT, LEGEND, LABELS and OVERLAYS (a PNG a frame each), and films
        fps: frames a second that are taken of videos; images are a clip where it is given
        on_frames: called with (frames done, frames in all)

    Raises:
        ConfigError: no such model or input, nothing that could be read, or the folder holds
            predictions of another model.
        WeightsError: the model cannot be read.
        CacheUnwritable: the folder cannot be written.
    """
    for given in inputs:
        if out.resolve().is_relative_to(given.resolve()):
            raise ConfigError(
                f"--out {out} lies in {given}, which is read; name a folder elsewhere"
            )
    frames = open_inputs(inputs, fps)
    exported = open_model_file(model)
    _claim(out, model, exported)
    writer = _Writer(out, exported)
    skipped: dict[str, str] = {}
    found = 0
    for done, frame in enumerate(frames, 1):
        if writer.has(frame.name):
            found += 1
        else:
            try:
                writer.write(frame)
            except (FrameError, SourceUnavailable) as error:
                skipped[frame.name] = str(error)
        on_frames(done, len(frames))
    if len(skipped) == len(frames):
        name, reason = next(iter(skipped.items()))
        raise ConfigError(
            f"none of {len(frames)} frames could be read; the first, {name}: {reason}"
        )
    films = writer.films([frame for frame in frames if frame.name not in skipped])
    predicted = len(frames) - found - len(skipped)
    return PredictionResult(out, str(model), predicted, found, skipped, films)


def open_model_file(path: Path) -> Exported:
    """Open a run folder, a checkpoint or an export on the device that there is.

    Raises: as `predict`.
    """
    device = best_device()
    if not path.exists():
        raise ConfigError(
            f"{path}: no such model; give a run folder, a checkpoint, or a file of "
            "`stillroom export`"
        )
    for one in FORMATS.values():
        if path.suffix != one.suffix:
            continue
        if path.suffix != ".safetensors" or is_export(read_metadata(path)):
            return one.open(path, device)
    trained = open_trained(path)
    about = about_of(trained)
    return Exported(
        about, runner(StudentProgram(trained.student, about.canvas, about.size), device)
    )


def _claim(out: Path, model: Path, exported: Exported) -> None:
    """Take a folder for the predictions of a model, or find that it is this model's."""
    file = model / run_folder.MODEL if model.is_dir() else model
    mine = {
        "model": str(model),
        "sha256": str(weights_sha256(file)),
        "classes": list(exported.about.classes),
        "colours": [list(colour) for colour in exported.about.colours],
    }
    theirs = run_folder.read_json(out / ABOUT)
    if theirs is not None and theirs["sha256"] != mine["sha256"]:
        raise ConfigError(
            f"{out} holds predictions of another model, {theirs['model']}; give --out another "
            "folder, or remove this one"
        )
    run_folder.write_json(out / ABOUT, mine)
    write_legend(out / LEGEND, exported.about.classes)


class _Writer:
    """Writes the predictions of a model below a folder."""

    def __init__(self, out: Path, exported: Exported) -> None:
        self._out, self._exported = out, exported
        self._colours = np.array(exported.about.colours, np.uint8)

    def has(self, name: str) -> bool:
        """Tell whether a frame is there; the overlay is written last."""
        return self._overlay(name).exists() and self._labels(name).exists()

    def write(self, frame: InputFrame) -> None:
        """Predict a frame and write its labels, as a PNG with a palette, and its overlay."""
        loaded = frame.load()
        labels = labels_of(self._exported, loaded)
        picture = Image.fromarray(labels)
        picture.putpalette(self._colours.tobytes())
        _write_png(self._labels(frame.name), picture)
        mixed = overlay(loaded.image, labels, self._colours)
        _write_png(self._overlay(frame.name), Image.fromarray(mixed))

    def films(self, frames: Sequence[InputFrame]) -> tuple[Path, ...]:
        """Write a film of the overlays of each clip."""
        clips: dict[str, list[InputFrame]] = {}
        for frame in frames:
            if frame.clip is not None:
                clips.setdefault(frame.clip, []).append(frame)
        films = []
        for clip, inside in clips.items():
            rate = min(inside[0].rate, 240.0)
            path = self._out / f"{clip}.mp4"
            try:
                films.append(write_film(path, self._overlays(inside), frames_per_second=rate))
            except ArtifactError as error:
                raise ConfigError(
                    f"{path}: {error}; labels and overlays are written: leave --fps out for images "
                    "of several sizes"
                ) from error
        return tuple(films)

    def _overlays(self, frames: Sequence[InputFrame]) -> Iterator[NDArray[np.uint8]]:
        return (read_image(self._overlay(frame.name)) for frame in frames)

    def _labels(self, name: str) -> Path:
        return self._out / LABELS / f"{name}.png"

    def _overlay(self, name: str) -> Path:
        return self._out / OVERLAYS / f"{name}.png"


def _write_png(path: Path, picture: Image.Image) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    run_folder.write_whole(path, buffer.getvalue())
