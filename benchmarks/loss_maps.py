"""Frames as teacher and student see them, and where a loss is: what pictures of losses show."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from map_page import Map

from stillroom.stages.pictures.palette import palette
from stillroom.stages.sources.camvid import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

STRIDE = 4
COLOURS = palette(CLASSES)
KEY = tuple((name, tuple(row.tolist())) for name, row in zip(CLASSES, COLOURS, strict=True))
MIXED = "Class colours, mixed by their probability."


@dataclass(frozen=True, eq=False)
class Views:
    """Frames as both networks see them: B of them, on grids of stride 4.

    names: B, for notes; images: (B, H, W, 3) uint8; labels: (B, H, W) int64, 255 = none
    student_logits, teacher_logits: (B, C, h, w)
    student, teacher: (B, A, h, w) penultimate features, A of each network's own
    classifier: (C, A) of the student
    """

    names: tuple[str, ...]
    images: NDArray[np.uint8]
    labels: Tensor
    student_logits: Tensor
    teacher_logits: Tensor
    student: Tensor
    teacher: Tensor
    classifier: Tensor

    def __len__(self) -> int:
        return len(self.names)

    @property
    def cells(self) -> Tensor:
        """(B, h, w): the label below each cell's centre, as terms take it."""
        return self.labels[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width in cells."""
        return tuple(self.teacher_logits.shape[2:])

    def part(self, rows: slice) -> Views:
        """Some of the frames."""
        cut = {name: value[rows] for name, value in vars(self).items() if name != "classifier"}
        return Views(**cut, classifier=self.classifier)


@dataclass(frozen=True, eq=False)
class Shown:
    """What pictures are made of: two frames to show, and others for statistics and training.

    marks: of each frame a place on its grid (row, column), and what is there
    """

    pair: Views
    others: Views
    marks: tuple[tuple[int, int, str], ...]

    def frame(self, number: int, *, marked: bool = False) -> Map:
        """One of the two frames, perhaps with its mark."""
        row, column, name = self.marks[number]
        marks = ((row, column, ""),) if marked else ()
        note = f"{name}, marked" if marked else self.pair.names[number]
        return Map(self.pair.images[number], note, marks, self.pair.grid)


def each_pixel(loss: Callable[..., Tensor], *maps: Tensor, **options: Any) -> NDArray[np.float64]:
    """Return what a loss takes the mean of, (B, h, w): the one reduction is held back."""
    module = sys.modules[loss.__module__]
    with patch.object(module, "masked_mean", lambda values, mask: values):
        return numbers(loss(*maps, **options))


def numbers(values: Tensor) -> NDArray[np.float64]:
    """As numpy has them."""
    return values.detach().double().numpy()


def mixture(logits: Tensor, temperature: float = 1.0) -> NDArray[np.uint8]:
    """(B, h, w, 3): the colours of the classes, mixed by probability."""
    shares = numbers((logits / temperature).softmax(dim=1)).transpose(0, 2, 3, 1)
    return (shares @ COLOURS.astype(np.float64)).round().astype(np.uint8)
