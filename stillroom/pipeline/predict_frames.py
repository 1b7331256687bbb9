"""`stillroom predict`: label maps, overlays and films of images, videos and a webcam."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.depth_writer import DepthWriter
from stillroom.pipeline.export_student import about_of
from stillroom.pipeline.open_model import open_trained
from stillroom.pipeline.predict_inputs import open_inputs
from stillroom.pipeline.predict_webcam import record, webcam_of
from stillroom.pipeline.prediction_writer import PredictionWriter
from stillroom.stages.models.exported.about import Exported, is_export
from stillroom.stages.models.exported.formats import FORMATS
from stillroom.stages.models.exported.student_program import StudentProgram, runner
from stillroom.stages.models.safetensors_file import read_metadata
from stillroom.stages.models.weights import weights_sha256
from stillroom.stages.pictures.overlay import write_legend
from stillroom.stages.sources.webcam import Webcam
from stillroom.stages.torch_state import best_device
from stillroom.stages.train import run_folder
from stillroom.storage_specs.artifacts import DEPTH
from stillroom.storage_specs.errors import ConfigError, FrameError, SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stillroom.pipeline.open_model import TrainedStudent
    from stillroom.pipeline.predict_inputs import InputFrame

ABOUT, LEGEND = "predictions.json", "legend.png"


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
    frames: int | None = None,
    on_frames: Callable[[int, int], None] = lambda done, total: None,
) -> PredictionResult:
    """Predict images, folders of images and videos, or what a webcam sees.

    Frames that are there already are kept; a webcam's are always new ones.

    Args:
        model: a run folder, a checkpoint, or a file of `stillroom export`
        inputs: files and folders; or "webcam", or "webcam:1" of the second one, by itself
        out: folder of ABOUT, LEGEND, labels and overlays (a PNG a frame each), and films
        fps: frames a second that are taken of videos, at most of a webcam; images are a clip where
            it is given
        frames: how many a webcam gives; until it is interrupted if left out
        on_frames: called with (frames done, frames in all)

    Raises:
        ConfigError: no such model, input or camera, nothing that could be read, or the folder holds
            predictions of another model.
        WeightsError: the model cannot be read.
        CacheUnwritable: the folder cannot be written.
    """
    camera = webcam_of(inputs)
    if camera is None:
        if frames is not None:
            raise ConfigError("--frames is of a webcam: images and videos are predicted whole")
        return _predict_files(model, inputs, out, fps, on_frames)
    with Webcam(camera) as opened:
        count, skipped, film = record(opened, _writer(model, out), frames, fps, on_frames)
    return PredictionResult(out, str(model), count, 0, skipped, (film,))


def _predict_files(
    model: Path,
    inputs: Sequence[Path],
    out: Path,
    fps: float | None,
    on_frames: Callable[[int, int], None],
) -> PredictionResult:
    for given in inputs:
        if out.resolve().is_relative_to(given.resolve()):
            raise ConfigError(
                f"--out {out} lies in {given}, which is read; name a folder elsewhere"
            )
    frames = open_inputs(inputs, fps)
    writer = _writer(model, out)
    skipped: dict[str, str] = {}
    found = 0
    for done, frame in enumerate(frames, 1):
        if writer.has(frame.name):
            found += 1
        else:
            try:
                writer.write(frame.name, frame.load())
            except (FrameError, SourceUnavailable) as error:
                skipped[frame.name] = str(error)
        on_frames(done, len(frames))
    if len(skipped) == len(frames):
        name, reason = next(iter(skipped.items()))
        raise ConfigError(
            f"none of {len(frames)} frames could be read; the first, {name}: {reason}"
        )
    films = _films(writer, [frame for frame in frames if frame.name not in skipped])
    predicted = len(frames) - found - len(skipped)
    return PredictionResult(out, str(model), predicted, found, skipped, films)


def _films(writer: PredictionWriter, frames: Sequence[InputFrame]) -> tuple[Path, ...]:
    """Write a film of the overlays of each clip."""
    clips: dict[str, list[InputFrame]] = {}
    for frame in frames:
        if frame.clip is not None:
            clips.setdefault(frame.clip, []).append(frame)
    return tuple(
        writer.film(clip, [frame.name for frame in inside], inside[0].rate)
        for clip, inside in clips.items()
    )


def _writer(model: Path, out: Path) -> PredictionWriter:
    opened = _open(model)
    if isinstance(opened, Exported):
        _claim(out, model, opened.about.classes, opened.about.colours)
        return PredictionWriter(out, opened)
    _claim(out, model, (), ())
    return DepthWriter(out, opened)


def open_model_file(path: Path) -> Exported:
    """Open a run folder, a checkpoint or an export of a model of classes, on the device there is.

    Raises: as `predict`.
    """
    opened = _open(path)
    return opened if isinstance(opened, Exported) else _as_exported(opened)


def _open(path: Path) -> Exported | TrainedStudent:
    """Open a model of classes, or a student that tells depth and no classes."""
    if not path.exists():
        raise ConfigError(
            f"{path}: no such model; give a run folder, a checkpoint, or a file of "
            "`stillroom export`"
        )
    for one in FORMATS.values():
        if path.suffix != one.suffix:
            continue
        if path.suffix != ".safetensors" or is_export(read_metadata(path)):
            return one.open(path, best_device())
    trained = open_trained(path)
    of_depth = DEPTH in trained.student.heads and not trained.section.learns_classes()
    return trained if of_depth else _as_exported(trained)


def _as_exported(trained: TrainedStudent) -> Exported:
    about = about_of(trained)
    program = StudentProgram(trained.student, about.canvas, about.size)
    return Exported(about, runner(program, best_device()))


def _claim(
    out: Path,
    model: Path,
    classes: tuple[str, ...],
    colours: tuple[tuple[int, int, int], ...],
) -> None:
    """Take a folder for the predictions of a model, or find that it is this model's."""
    file = model / run_folder.MODEL if model.is_dir() else model
    mine = {
        "model": str(model),
        "sha256": str(weights_sha256(file)),
        "classes": list(classes),
        "colours": [list(colour) for colour in colours],
    }
    theirs = run_folder.read_json(out / ABOUT)
    if theirs is not None and theirs["sha256"] != mine["sha256"]:
        raise ConfigError(
            f"{out} holds predictions of another model, {theirs['model']}; give --out another "
            "folder, or remove this one"
        )
    run_folder.write_json(out / ABOUT, mine)
    if classes:
        write_legend(out / LEGEND, classes)
