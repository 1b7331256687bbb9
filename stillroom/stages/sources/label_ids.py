"""The raw ids in label files, and the classes that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from stillroom.stages.class_lists import numbered
from stillroom.stages.sources.source_settings import FileSettings
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelIds:
    """The class index of each raw id.

    Attributes:
        classes: names of the class indices.
        index_of: raw id -> class index, or 255 for an id to be ignored.
        ignore_unlisted: whether an id outside `index_of` is ignored, or a fault of the frame.
    """

    classes: tuple[str, ...]
    index_of: Mapping[int, int]
    ignore_unlisted: bool = False

    def apart(self) -> int:
        """Return the least difference of two ids that mean different things; 256 where none do."""
        pairs = pairwise(sorted(self.index_of.items()))
        return min((b - a for (a, one), (b, other) in pairs if one != other), default=256)

    def convert(self, name: str, raw: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Turn raw ids (H, W) into class indices uint8 (H, W).

        Raises:
            FrameError: ids outside the class list.
        """
        present = np.unique(raw)
        unlisted = [int(value) for value in present if int(value) not in self.index_of]
        if unlisted and not self.ignore_unlisted:
            shown = ", ".join(map(str, unlisted[:8])) + (", ..." if len(unlisted) > 8 else "")
            raise FrameError(
                f"{name}: label values {shown} are outside the class list "
                f"({len(self.classes)} classes; ids known here: {_ranges(self.index_of)})"
            )
        indices = [self.index_of.get(int(value), IGNORE) for value in present]
        if raw.dtype == np.uint8:
            table = np.full(256, IGNORE, np.uint8)
            table[present] = indices
            return np.take(table, raw)
        return np.take(np.array(indices, np.uint8), np.searchsorted(present, raw))


ClassNames = Annotated[tuple[str, ...], BeforeValidator(numbered)]
"""Names of classes, the name of a list of them, or their number: they are then "0", "1", ..."""


class LabelSettings(FileSettings):
    """The classes of a source and the ids of its label files.

    Attributes:
        classes: names of the class indices, or their number, or the name of a known list.
        mapping: raw id in a label file -> class index; None where files hold the indices.
        ids_from: the id of the first class, where files hold the indices; lower ids do not count.
        ignore: raw ids that do not count.
        unlisted: whether an id in neither is a fault of its frame, or ignored.
    """

    classes: ClassNames
    mapping: dict[int, int] | None = None
    ids_from: int = Field(default=0, ge=0)
    ignore: tuple[int, ...] = (IGNORE,)
    unlisted: Literal["fault", "ignore"] = "fault"

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have the same name")
        count = len(self.classes)
        wrong = {k: v for k, v in (self.mapping or {}).items() if not 0 <= v < count}
        if wrong:
            raise ValueError(f"mapping {wrong} leads outside the {count} classes (0..{count - 1})")
        if self.mapping is not None and self.ids_from:
            raise ValueError("`mapping` says the class of every id: leave `ids_from` out")
        if self.ids_from and IGNORE in self.ignore and self.ids_from + count > IGNORE:
            raise ValueError(
                f"{count} classes from id {self.ids_from} on: one of them has the id {IGNORE}, "
                "which is ignored; set `ignore = []` if it is a class"
            )
        both = sorted(set(self.mapping or {}) & set(self.ignore))
        if both:
            raise ValueError(f"ids {both} are both mapped and ignored")
        return self

    def label_ids(self) -> LabelIds:
        """Return the class of each raw id; an ignored id wins over an index of the same value."""
        listed = self.mapping
        if listed is None:
            first = self.ids_from
            listed = {first + index: index for index in range(len(self.classes))}
            listed |= dict.fromkeys(range(first), IGNORE)
        index_of = listed | dict.fromkeys(self.ignore, IGNORE)
        return LabelIds(self.classes, index_of, self.unlisted == "ignore")

    def stated(self) -> dict[str, Any]:
        """Return kind, draw, classes and what decides the labels."""
        index_of = self.label_ids().index_of
        return {
            **super().stated(),
            "classes": list(self.classes),
            "ids": {str(raw): index_of[raw] for raw in sorted(index_of)},
            "unlisted": self.unlisted,
        }


def _ranges(ids: Mapping[int, int]) -> str:
    """Format ids as "0-10, 255"."""
    runs: list[list[int]] = []
    for value in sorted(ids):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
