"""A source whose frames are image files; most data set layouts are opened as one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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


class TargetReader(Protocol):
    """Reads a target's files."""

    def shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an image's of this (height, width)."""

    def read(self, file: EncodedFile, size: tuple[int, ...]) -> NDArray[np.float32]:
        """Read a file for an image of this (height, width): 0 where there is no value.

        Raises:
            FrameError: it cannot be used.
            SourceUnavailable: it cannot be read now.
        """


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
            everywhere, which in other sources is a fault of its label; likewise of further targets.
        targets: what reads the files of further targets, by name.
    """

    frames: Listing
    stated: Mapping[str, Any]
    ids: LabelIds | None = None
    position_of: Callable[[str], tuple[str | None, int | None]] = no_clip
    read: LabelReader = read_label
    sparse: bool = False
    targets: Mapping[str, TargetReader] = field(default_factory=dict)

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
        outside the class list is a fault of the label alone; likewise of further targets.

        Raises:
            FrameError: the image is missing or damaged, or its path is no text.
            SourceUnavailable: a file cannot be read now.
        """
        file, frame_id = self.frames.image(index), self.frame_ids[index]
        refuse_spelled(frame_id)
        image = read_image(file)
        about = index, file.name, image.shape[:2]
        read = {target: self._target(target, *about) for target in self.targets}
        return Frame(
            frame_id,
            image,
            *self._label(*about),
            targets={target: found for target, (found, _) in read.items()},
            faults={target: fault for target, (_, fault) in read.items() if fault},
        )

    def _label(
        self, index: int, name: str, size: tuple[int, ...]
    ) -> tuple[NDArray[np.uint8] | None, str]:
        """Return the label of an image of this name and size, and its fault."""
        if self.ids is None:
            return None, ""
        label, fault = np.full(size, IGNORE, np.uint8), ""
        label_file = self.frames.label(index)
        if label_file is not None:
            try:
                label = self._read_ids(label_file, self.ids, size)
            except FrameError as error:
                fault = str(error)
        elif not self.sparse:
            fault = f"{name}: it has no label file"
        return label, fault

    def _target(
        self, target: str, index: int, name: str, size: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], str]:
        """Return a further target of an image of this name and size, and its fault."""
        reader, fault = self.targets[target], ""
        found = np.zeros(reader.shape(size), np.float32)
        file = self.frames.target(target, index)
        if file is not None:
            try:
                found = reader.read(file, size)
            except FrameError as error:
                fault = str(error)
        elif not self.sparse:
            fault = f"{name}: it has no {target} file"
        return found, fault

    def position(self, index: int) -> tuple[str | None, int | None]:
        """Return clip and time of a frame, where the layout has them."""
        if self.frames.clips is not None:
            return self.frames.clips.position(index)
        return self.position_of(self.frame_ids[index])

    def labelled(self, index: int) -> bool:
        """Tell whether the frame has a label file, or one of another target."""
        return self._has_targets and self.frames.labelled(index)

    def label_count(self) -> int:
        """Count the frames that should have one."""
        if not self._has_targets or self.sparse:
            return self.frames.label_count()
        return len(self)

    @property
    def _has_targets(self) -> bool:
        return self.ids is not None or bool(self.targets)

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
