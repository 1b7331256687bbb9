"""Label files of COCO's panoptic format: a PNG of segments, whose categories a JSON file tells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.sources.image_files import decode_image
from stillroom.storage_specs.errors import FrameError, SourceUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.sources.encoded_file import EncodedFile

VOID = 0
"""The id of pixels in no segment, and the category that they get."""


@dataclass(frozen=True, eq=False)
class PanopticLabels:
    """Reads label files as categories; `segments` is read when the first of them is."""

    segments: Path

    def __call__(self, file: EncodedFile, apart: int = 1) -> NDArray[np.int32]:
        """Read the category of each pixel, VOID outside all segments: int32 (H, W).

        Args:
            file: a PNG whose pixels are segment ids, R + 256 G + 65536 B
            apart: of no use here

        Raises:
            FrameError: it is no such file, or the JSON file does not have it or one of its ids.
            SourceUnavailable: either file cannot be read now.
        """
        image = decode_image(file).image
        if image.mode != "RGB":
            raise FrameError(
                f"{file.name}: the segments of a panoptic label are in the colours of an RGB "
                f"image, this one is {image.mode}"
            )
        channels = np.asarray(image).astype(np.int32)  # (H, W, 3)
        ids = channels @ np.array([1, 256, 65536], np.int32)  # (H, W)
        stem = PurePosixPath(file.name).stem
        if stem not in self._categories:
            raise FrameError(f"{file.name}: {self.segments.name} has no annotation of it")
        category_of = {VOID: VOID, **dict(self._categories[stem].tolist())}
        present, places = np.unique(ids, return_inverse=True)
        unknown = [int(one) for one in present if int(one) not in category_of]
        if unknown:
            raise FrameError(
                f"{file.name}: segments {unknown[:8]} are not in {self.segments.name}; take both "
                "from one archive"
            )
        categories = np.array([category_of[int(one)] for one in present], np.int32)
        return categories[places].reshape(ids.shape)

    @cached_property
    def _categories(self) -> dict[str, NDArray[np.int32]]:
        """Segment and category ids, (segments, 2), by the stem of the file that they are of."""
        try:
            text = self.segments.read_text(encoding="utf8")
            start = text.index("[", text.index('"annotations"')) + 1
            return dict(_annotations(text, start))
        except (OSError, ValueError, LookupError, TypeError) as fault:
            raise SourceUnavailable(
                f"{self.segments} cannot be read as COCO's panoptic annotations ({fault}); "
                "expected a JSON file with a list `annotations`: extract it anew"
            ) from fault

    def __reduce__(self) -> tuple[Any, ...]:
        return PanopticLabels, (self.segments,)


def _annotations(text: str, place: int) -> list[tuple[str, NDArray[np.int32]]]:
    """Read the objects of a JSON list from its first on.

    One by one: the whole file of COCO's train split would take gigabytes as Python objects.
    """
    decoder = json.JSONDecoder()
    found = []
    while text[place := _next(text, place)] == "{":
        one, place = decoder.raw_decode(text, place)
        rows = [(each["id"], each["category_id"]) for each in one["segments_info"]]
        stem = PurePosixPath(one["file_name"]).stem
        found.append((stem, np.array(rows, np.int32).reshape(-1, 2)))
    return found


def _next(text: str, place: int) -> int:
    """Return the place of the next character that is neither space nor comma."""
    while text[place] in " \t\r\n,":
        place += 1
    return place
