"""The source whose frames are files: what CamVid, image+mask and image folders have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.sources.images_on_disk import read_image, read_label
from stillroom.stages.sources.names import Names
from stillroom.stages.sources.source import Frame
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stillroom.stages.sources.clip_places import ClipPlaces
    from stillroom.stages.sources.label_ids import LabelIds
    from stillroom.stages.sources.listing import Listing


def no_clip(_: str) -> tuple[None, None]:
    """Clip and time of a frame that belongs to no clip."""
    return None, None


@dataclass(frozen=True, eq=False)
class FileSource:
    """Frames listed from disk, in natural order of their ids or by clip and time.

    Attributes:
        frames: the files.
        facts: the identity's own part: kind and whatever of the config decides the content.
        ids: how label files are read; None in an unlabelled source.
        position_of: clip and time as a frame's id has them.
        clips: clip and time of every frame, where they take more than its id to know; the frames
            are then in the order of clips and times, as they are given.
        sparse: whether a frame of a labelled source may have no label: it is then ignored
            everywhere, where in other sources it is a fault of the frame.
    """

    frames: Listing
    facts: Mapping[str, Any]
    ids: LabelIds | None = None
    position_of: Callable[[str], tuple[str | None, int | None]] = no_clip
    clips: ClipPlaces | None = None
    sparse: bool = False

    def __post_init__(self) -> None:
        if self.clips is None:
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
            SourceUnavailable: a file cannot be read now.
        """
        listed = self.frames[index]
        image = read_image(Path(listed.image))
        if self.ids is None:
            return Frame(listed.frame_id, image)
        if listed.label is None and self.sparse:
            return Frame(listed.frame_id, image, np.full(image.shape[:2], IGNORE, np.uint8))
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
        if self.clips is not None:
            return self.clips.position(index)
        return self.position_of(self.frame_ids[index])

    def labelled(self, index: int) -> bool:
        """Whether the frame has a label file."""
        return self.ids is not None and self.frames.labelled(index)

    def identity(self) -> dict[str, Any]:
        """Kind, classes, id mapping and the listing's fingerprint."""
        classes = None if self.classes is None else list(self.classes)
        return {
            **self.facts,
            "classes": classes,
            "frames": len(self.frames),
            "listing_sha256": self.frames.sha256,
        }
