"""Pieces that every sheet of frames is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.pictures.sheet import Entry
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from stillroom.stages.pictures.palette import Colour

PADDING: Colour = (226, 229, 234)
MOST_LEGEND = 60  # with more classes than this, the legend names only those that can be seen


def same_size(frame_id: str, name: str, made: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
    """Raise ArtifactError unless a label map covers its frame."""
    if made.shape != image.shape[:2]:
        raise ArtifactError(
            f"{frame_id}: {name} {tuple(made.shape)} does not cover the frame {image.shape[:2]}"
        )


def models_of(rows: Sequence[tuple[str, Mapping[str, object]]], what: str) -> list[str]:
    """Names of the models that a sheet has columns for: the same in each of its rows.

    rows: name and predictions of each; what: one of them is called in errors

    Raises:
        ConfigError: no rows, or they differ in their models.
    """
    if not rows:
        raise ConfigError(f"a sheet needs at least one {what} to show")
    models = list(rows[0][1])
    for name, predictions in rows:
        if not models or list(predictions) != models:
            raise ConfigError(
                f"{name}: expected predictions by {', '.join(models) or 'some model'}; "
                f"got {', '.join(predictions) or 'none'}"
            )
    return models


def show_padding(picture: NDArray[np.uint8], valid: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A picture whose padding, below and to the right of its valid area, is a pale grey."""
    if valid is None or valid == picture.shape[:2]:
        return picture
    shown = np.full_like(picture, PADDING)
    shown[: valid[0], : valid[1]] = picture[: valid[0], : valid[1]]
    return shown


def valid_part(made: NDArray[np.uint8], valid: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A map without its padding; `valid` None is all of it."""
    height, width = valid or made.shape[:2]
    return made[:height, :width]


def counted_frames(sizes: Sequence[tuple[int, ...]]) -> str:
    """How many frames of what size, for the line below a title; sizes are (H, W)."""
    different = sorted(set(sizes), reverse=True)
    shown = ", ".join(f"{height}x{width}" for height, width in different[:3])
    more = ", …" if len(different) > 3 else ""
    return f"{len(sizes)} frame{'s' if len(sizes) > 1 else ''}, {shown}{more} pixels"


def class_legend(
    classes: Sequence[str],
    colours: NDArray[np.uint8],
    seen: Sequence[NDArray[np.uint8]],
    iou: Sequence[Sequence[float | None]] = (),
) -> tuple[tuple[Entry, ...], str]:
    """The classes as a legend, and what to say about those left out ("" where none is).

    With more than 60 classes only those on the sheet are named, the 60 most frequent at most.

    Args:
        classes: their names.
        colours: (C, 3) uint8.
        seen: the label maps on the sheet.
        iou: by model, the IoU of each class; None where the class is absent.
    """
    named = list(range(len(classes)))
    note = ""
    if len(classes) > MOST_LEGEND:
        counts = sum(
            (np.bincount(one.ravel(), minlength=256) for one in seen), np.zeros(256, np.int64)
        )
        frequent = np.argsort(-counts[: len(classes)], kind="stable")[:MOST_LEGEND].tolist()
        shown = sorted(index for index in frequent if counts[index])
        hidden = int((counts[: len(classes)] > 0).sum()) > len(shown)
        which = "the most frequent" if hidden else "those on this sheet"
        note = f"{len(shown)} of {len(classes)}, {which}"
        named = shown
    entries = [
        Entry(
            _colour(colours[index]),
            classes[index],
            " / ".join(_score(model[index]) for model in iou),
        )
        for index in named
    ]
    return tuple(entries), note


def _colour(row: NDArray[np.uint8]) -> Colour:
    red, green, blue = row.tolist()
    return (red, green, blue)


def _score(iou: float | None) -> str:
    return "absent" if iou is None else f"{iou:.3f}"
