"""A source whose frames are image files; most data set layouts are opened as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.sources.image_files import read_image
from stillroom.stages.sources.label_files import read_label
from stillroom.stages.sources.names import Names
from stillroom.stages.sources.source import Frame
from stillroom.stages.sources.spelled_names import refuse_spelled
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from stillroom.stages.sources.encoded_file import EncodedFile
    from stillroom.stages.sources.label_ids import LabelIds
    from stillroom.stages.sources.listing import Listing

    LabelReader = Callable[[EncodedFile, int], NDArray[np.integer[Any]]]


def no_clip(_: str) -> tuple[None, None]:
    """Return the clip and time of a frame that belongs to no clip."""
    return None, None


@dataclass(frozen=True, eq=False)
class FileSource:
    """Frames listed from disk.

    Attributes:
        frames: the files, in the order of the frames.
        stated: the part of the identity that the section decides.
        ids: how label files are read; None in an unlabelled source.
        position_of: reads clip and time from a frame's id, where the listing does not have them.
        read: reads the raw ids of a label file, given the least difference of two that differ in
            meaning.
        sparse: whether a frame of a labelled source may have no label: it is then ignored
            everywhere, which in other sources is a fault of its label.
    """

    frames: Listing
    stated: Mapping[str, Any]
    ids: LabelIds | None = None
    position_of: Callable[[str], tuple[str | None, int | None]] = no_clip
    read: LabelReader = read_label
    sparse: bool = False

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

        A label file that is missing or damaged, of another size than its image, or holds ids
        outside the class list is a fault of the label alone.

        Raises:
            FrameError: the image is missing or damaged, or its path is no text.
            SourceUnavailable: a file cannot be read now.
        """
        file, frame_id = self.frames.image(index), self.frame_ids[index]
        refuse_spelled(frame_id)
        image = read_image(file)
        if self.ids is None:
            return Frame(frame_id, image)
        label, fault = np.full(image.shape[:2], IGNORE, np.uint8), ""
        label_file = self.frames.label(index)
        if label_file is not None:
            try:
                label = self._read_ids(label_file, self.ids, image.shape[:2])
            except FrameError as error:
                fault = str(error)
        elif not self.sparse:
            fault = f"{file.name}: it has no label file"
        return Frame(frame_id, image, label, fault)

    def position(self, index: int) -> tuple[str | None, int | None]:
        """Return clip and time of a frame, where the layout has them."""
        if self.frames.clips is not None:
            return self.frames.clips.position(index)
        return self.position_of(self.frame_ids[index])

    def labelled(self, index: int) -> bool:
        """Tell whether the frame has a label file."""
        return self.ids is not None and self.frames.labelled(index)

    def label_count(self) -> int:
        """Count the frames that should have a label file."""
        if self.ids is None or self.sparse:
            return self.frames.label_count()
        return len(self)

    def identity(self) -> dict[str, Any]:
        """Return kind, classes, id mapping and the listing's fingerprint."""
        return {
            **self.stated,
            "frames": len(self.frames),
            "listing_sha256": self.frames.sha256,
        }

    def _read_ids(
        self, file: EncodedFile, ids: LabelIds, size: tuple[int, ...]
    ) -> NDArray[np.uint8]:
        """Read the class indices (H, W) of a label file.

        Raises:
            FrameError: it cannot be used as the label of an image of this (height, width).
            SourceUnavailable: it cannot be read now.
        """
        raw = self.read(file, ids.apart())
        if raw.shape != size:
            raise FrameError(
                f"{file.name}: the label is {raw.shape[0]}x{raw.shape[1]}, its image "
                f"{size[0]}x{size[1]} (height x width)"
            )
        return ids.convert(file.name, raw)
