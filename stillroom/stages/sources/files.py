"""The source whose frames are files: what CamVid, image+mask and image folders have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.sources.images_on_disk import read_image, read_label
from stillroom.stages.sources.names import Names
from stillroom.stages.sources.source import IGNORE, Frame
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from stillroom.stages.sources.listing import Listing


@dataclass(frozen=True)
class LabelIds:
    """Which class a label file's raw id means.

    Attributes:
        classes: names of the class indices.
        index_of: raw id -> class index, or 255 for an id to be ignored.
        ignore_unlisted: whether an id outside `index_of` is ignored, or a fault of the frame.
    """

    classes: tuple[str, ...]
    index_of: Mapping[int, int]
    ignore_unlisted: bool = False

    def convert(self, name: str, raw: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Raw ids (H, W) to class indices uint8 (H, W).

        Raises:
            FrameError: ids that mean nothing here, named.
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


def no_clip(_: str) -> tuple[None, None]:
    """Clip and time of a frame that belongs to no clip."""
    return None, None


@dataclass(frozen=True, eq=False)
class FileSource:
    """Frames listed from disk, in natural order of their ids.

    Attributes:
        frames: the files.
        facts: the identity's own part: kind and whatever of the config decides the content.
        ids: how label files are read; None in an unlabelled source.
        position_of: clip and time as a frame's id has them.
    """

    frames: Listing
    facts: Mapping[str, Any]
    ids: LabelIds | None = None
    position_of: Callable[[str], tuple[str | None, int | None]] = no_clip

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", self.frames.ordered())

    @property
    def frame_ids(self) -> Names:
        """The frames' names in order."""
        return Names(self.frames.ids)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the label values; None in an unlabelled source."""
        return None if self.ids is None else self.ids.classes

    def __len__(self) -> int:
        return len(self.frames)

    def load(self, index: int) -> Frame:
        """Read one frame and, in a labelled source, its label map.

        Raises:
            FrameError: a file is missing, damaged, of another size than its image, or its label
                holds ids outside the class list.
        """
        listed = self.frames[index]
        image = read_image(Path(listed.image))
        if self.ids is None:
            return Frame(listed.frame_id, image)
        if listed.label is None:
            raise FrameError(f"{Path(listed.image).name}: it has no label file")
        raw = read_label(Path(listed.label))
        if raw.shape != image.shape[:2]:
            raise FrameError(
                f"{Path(listed.label).name}: the label is {raw.shape[0]}x{raw.shape[1]}, its image "
                f"{image.shape[0]}x{image.shape[1]} (height x width)"
            )
        return Frame(listed.frame_id, image, self.ids.convert(Path(listed.label).name, raw))

    def position(self, index: int) -> tuple[str | None, int | None]:
        """Clip and time, where the layout has them."""
        return self.position_of(self.frame_ids[index])

    def identity(self) -> dict[str, Any]:
        """Kind, classes, id mapping and the listing's fingerprint."""
        classes = None if self.classes is None else list(self.classes)
        return {
            **self.facts,
            "classes": classes,
            "frames": len(self.frames),
            "listing_sha256": self.frames.sha256,
        }


def _ranges(ids: Mapping[int, int]) -> str:
    """Ids as "0-10, 255"."""
    runs: list[list[int]] = []
    for value in sorted(ids):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
