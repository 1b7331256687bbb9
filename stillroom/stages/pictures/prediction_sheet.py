"""A sheet of what models predict, beside the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.pictures.palette import BLACK, Colour, colourise, palette
from stillroom.stages.pictures.sheet import Entry, Sheet, Tile, draw_sheet
from stillroom.stages.pictures.tiles import (
    PADDING,
    class_legend,
    counted_frames,
    models_of,
    same_size,
    show_padding,
    valid_part,
)
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.evaluate.confusion import Scores

WRONG: Colour = (214, 32, 39)


@dataclass(frozen=True, eq=False)
class PredictionRow:
    """One frame of a prediction sheet.

    Attributes:
        frame_id: its name.
        image: (H, W, 3) uint8, RGB.
        predictions: (H, W) uint8 classes, by the name of the model.
        label: (H, W) uint8, 255 = ignore; None where there is none.
        valid: (height, width) of the part that is no padding; None for all of it.
    """

    frame_id: str
    image: NDArray[np.uint8]
    predictions: Mapping[str, NDArray[np.uint8]]
    label: NDArray[np.uint8] | None = None
    valid: tuple[int, int] | None = None


def prediction_sheet(
    path: Path,
    rows: Sequence[PredictionRow],
    classes: Sequence[str],
    *,
    scores: Mapping[str, Scores] | None = None,
    title: str = "Predictions",
    errors_of: str | None = None,
) -> Path:
    """Draw frames with label, predictions and errors as a PNG.

    Columns: frame, label, one a model, and the errors of one model: its wrong pixels in red on the
    greyed frame, ignored pixels black. Without any label, label and errors are left out.

    Args:
        path: of the PNG; its folder is made.
        rows: the frames; all have predictions by the same models.
        classes: names of the classes 0..C-1.
        scores: by model, over the whole evaluation; they appear in headings and legend.
        title: the first line.
        errors_of: which model's errors; the last one's if left out.

    Raises:
        ConfigError: no rows, or they differ in their models, or `errors_of` is none of them.
        ArtifactError: arrays that do not fit together.
    """
    models = models_of([(row.frame_id, row.predictions) for row in rows], "frame")
    judged = errors_of if errors_of is not None else models[-1]
    if judged not in models:
        raise ConfigError(f"errors_of: no prediction {judged!r}; there are: {', '.join(models)}")
    scores = {} if scores is None else scores
    labelled = any(row.label is not None for row in rows)
    headings = [
        f"{name} · mIoU {scores[name].miou:.3f}" if name in scores else name for name in models
    ]
    only = " only" if len(models) > 1 else ""
    truth, errors = (["label"], [f"errors of {judged}{only}, in red"]) if labelled else ([], [])
    colours = palette(classes)
    legend_title, legend = _legend(rows, classes, scores, labelled=labelled)
    return draw_sheet(
        Sheet(
            title=title,
            subtitle=counted_frames([row.image.shape[:2] for row in rows]),
            columns=("frame", *truth, *headings, *errors),
            rows=tuple(_tiles(row, colours, judged, labelled=labelled) for row in rows),
            legend_title=legend_title,
            legend=legend,
        ),
        path,
    )


def error_map(
    image: NDArray[np.uint8], label: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Paint wrong pixels red on the greyed frame, ignored pixels black.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) uint8, 255 = ignore.
        prediction: (H, W) uint8.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    grey = 120 + image.mean(2, keepdims=True) * (135 / 255)  # (H, W, 1)
    painted = np.repeat(grey, 3, axis=2)
    wrong = (label != IGNORE) & (prediction != label)
    painted[wrong] = 0.15 * painted[wrong] + 0.85 * np.array(WRONG)
    painted[label == IGNORE] = BLACK
    return painted.round().astype(np.uint8)


def _legend(
    rows: Sequence[PredictionRow],
    classes: Sequence[str],
    scores: Mapping[str, Scores],
    *,
    labelled: bool,
) -> tuple[str, tuple[Entry, ...]]:
    seen = [valid_part(made, row.valid) for row in rows for made in row.predictions.values()]
    seen += [valid_part(row.label, row.valid) for row in rows if row.label is not None]
    shown = [name for name in rows[0].predictions if name in scores]
    entries, left_out = class_legend(
        classes, palette(classes), seen, [scores[name].iou for name in shown]
    )
    title = "Classes" + (f" ({left_out})" if left_out else "")
    title += f" with the IoU of {' / '.join(shown)}" if shown else ""
    if labelled:
        entries += (Entry(BLACK, "ignored"),)
    if any(row.valid not in (None, row.image.shape[:2]) for row in rows):
        entries += (Entry(PADDING, "padding"),)
    return title, entries


def _tiles(
    row: PredictionRow, colours: NDArray[np.uint8], judged: str, *, labelled: bool
) -> tuple[Tile, ...]:
    def tile(picture: NDArray[np.uint8], note: str = "", *, smooth: bool = False) -> Tile:
        return Tile(show_padding(picture, row.valid), note, smooth=smooth)

    for name, made in row.predictions.items():
        same_size(row.frame_id, name, made, row.image)
    frame = tile(row.image, row.frame_id, smooth=True)
    models = [
        tile(colourise(made, colours), _accuracy(row, made)) for made in row.predictions.values()
    ]
    if not labelled:
        return (frame, *models)
    if row.label is None:
        return (frame, Tile(None, "no label"), *models, Tile(None, "no label"))
    same_size(row.frame_id, "label", row.label, row.image)
    errors = error_map(row.image, row.label, row.predictions[judged])
    return (frame, tile(colourise(row.label, colours)), *models, tile(errors))


def _accuracy(row: PredictionRow, made: NDArray[np.uint8]) -> str:
    if row.label is None:
        return ""
    label, made = valid_part(row.label, row.valid), valid_part(made, row.valid)
    counted = label != IGNORE
    if not counted.any():
        return "no labelled pixel"
    return f"pixel accuracy {float((label == made)[counted].mean()):.3f}"
