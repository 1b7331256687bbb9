"""A sheet of what models predict, beside the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.pictures.palette import BLACK, Colour
from stillroom.stages.pictures.sheet import Cell, FrameRow, Sheet
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.evaluate.confusion import Scores
    from stillroom.stages.sources.canvas import CanvasFrame

    Image = NDArray[np.uint8]

WRONG: Colour = (214, 32, 39)


def prediction_sheet(
    path: Path,
    frames: Sequence[CanvasFrame],
    predictions: Mapping[str, Sequence[Image]],
    classes: Sequence[str],
    *,
    scores: Mapping[str, Scores] = {},
    title: str = "Predictions",
) -> Path:
    """Draw frames with label, predictions and errors as a PNG.

    Columns: frame, label, one a model, and the errors of the last one: its wrong pixels in red on
    the greyed frame, ignored pixels black. Without any label, label and errors are left out.

    Args:
        path: of the PNG; its folder is made.
        frames: what is predicted.
        predictions: of every frame (H, W) uint8 classes, by the name of the model.
        classes: names of the classes 0..C-1.
        scores: by model, over the whole evaluation; they appear in headings and legend.
        title: the first line.

    Raises:
        ConfigError: there are no frames.
        ArtifactError: arrays that do not fit together.
    """
    models = list(predictions)
    rows = [
        _frame_row(frame, dict(zip(models, made, strict=True)))
        for frame, *made in zip(frames, *predictions.values(), strict=True)
    ]
    miou = {name: f" · mIoU {one.miou:.3f}" for name, one in scores.items()}
    only = " only" if len(models) > 1 else ""
    columns = (
        "frame",
        "label",
        *(name + miou.get(name, "") for name in models),
        f"errors of {models[-1]}{only}, in red",
    )
    iou = {name: scores[name].iou for name in models if name in scores}
    return Sheet(title, columns, rows, classes, iou=iou).save(path)


def _frame_row(frame: CanvasFrame, predictions: Mapping[str, Image]) -> FrameRow:
    errors = label = Cell("classes", None, "no label")
    for name, made in predictions.items():
        demand_size(frame.frame_id, name, made, frame.image)
    if frame.label is not None:
        demand_size(frame.frame_id, "label", frame.label, frame.image)
        label = Cell("classes", frame.label, "")
        errors = Cell(
            "painting", error_map(frame.image, frame.label, list(predictions.values())[-1])
        )
    cells = [Cell("classes", made, _accuracy(frame, made)) for made in predictions.values()]
    return FrameRow(frame.frame_id, frame.image, (label, *cells, errors), frame.valid)


def _accuracy(frame: CanvasFrame, made: Image) -> str:
    if frame.label is None:
        return ""
    valid = np.s_[: frame.valid[0], : frame.valid[1]]
    known = frame.label[valid] != IGNORE
    if not known.any():
        return "no labelled pixel"
    return f"pixel accuracy {float((frame.label == made)[valid][known].mean()):.3f}"


def demand_size(frame_id: str, name: str, made: Image, image: Image) -> None:
    """Raise ArtifactError unless a label map covers its frame."""
    if made.shape != image.shape[:2]:
        raise ArtifactError(
            f"{frame_id}: {name} {tuple(made.shape)} does not cover the frame {image.shape[:2]}"
        )


def greyed(image: Image) -> NDArray[np.float64]:
    """Return a pale grey copy of a frame to paint on, (H, W, 3), 120..255."""
    return np.repeat(120 + image.mean(2, keepdims=True) * (135 / 255), 3, axis=2)


def error_map(image: Image, label: Image, prediction: Image) -> Image:
    """Paint wrong pixels red on the greyed frame (H, W, 3), and ignored pixels black."""
    painted = greyed(image)
    wrong = (label != IGNORE) & (prediction != label)
    painted[wrong] = 0.15 * painted[wrong] + 0.85 * np.array(WRONG)
    painted[label == IGNORE] = BLACK
    return painted.round().astype(np.uint8)
