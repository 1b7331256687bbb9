"""Folders of frames, a folder a clip, with labels for some of them or none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from stillroom.stages.sources.choose import choose
from stillroom.stages.sources.file_source import FileSource
from stillroom.stages.sources.find_images import find_images
from stillroom.stages.sources.label_ids import ClassNames, LabelSettings
from stillroom.stages.sources.listing import Listing
from stillroom.stages.sources.source_settings import FileSettings
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.sources.find_images import NamedFiles
    from stillroom.stages.sources.listing import Files

# The last number of a path's last part; nothing where that part has none.
_NUMBER = r"(?:^|[^0-9])(?P<number>[0-9]+)[^0-9/]*$"
_DIGITS = 18  # of a number that int64 holds whatever its digits are


class ClipsConfig(LabelSettings):
    """Every folder below `root` that holds images is a clip, named by its path.

    Classes and ids are those of `LabelSettings`.

    Attributes:
        root: the folder of the clips' folders.
        labels: a folder laid out like it, with a label map of the same name for the frames that
            have one; None for a source without labels.
        around_labels: leaves out frames that lie more than so many steps from a labelled one, a
            step being from one frame of a clip to its next; None keeps all.
    """

    kind: Literal["clips"] = "clips"
    root: Path
    labels: Path | None = None
    classes: ClassNames = Field(default=(), max_length=255)
    around_labels: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.labels is None) != (not self.classes):
            raise ValueError("`labels` and `classes` go together: what the ids in the files mean")
        if self.labels is None and self.around_labels is not None:
            raise ValueError("`around_labels` needs `labels`: no frame has one")
        return self

    def folders(self) -> tuple[Path, ...]:
        """Return the folders of the clips and, where there are any, of the labels."""
        given = (self.root,) if self.labels is None else (self.root, self.labels)
        return tuple(folder.expanduser() for folder in given)

    def stated(self) -> dict[str, Any]:
        """Return kind, classes and label ids."""
        return FileSettings.stated(self) if self.labels is None else super().stated()


def open_clips(config: ClipsConfig) -> FileSource:
    """List the clips; a frame is named by its path below `root`, suffix dropped.

    Its time is the last number in its file's name. In a clip whose files have no numbers it is
    the frame's place in natural order, from 0. A label without a frame is passed over.

    Raises:
        ConfigError: a folder is missing, unreadable or empty, a frame lies in no clip, two frames
            of a clip have one time, some of its files have a number and some none, or no frame
            has a label.
    """
    root = config.folders()[0]
    frames = find_images(root, recursive=True).by_stem()
    outside = frames.ids.filter(pc.invert(pc.match_substring(frames.ids, "/")))
    if len(outside):
        raise ConfigError(
            f"{root} holds {len(outside)} images outside any clip, e.g. {outside[0].as_py()!r}; "
            "every clip is a folder below `root`: point `root` at the folder above, or move them"
        )
    labels = None if config.labels is None else _labels(config, frames)
    # In natural order first: it gives frames without numbers their times.
    listing = Listing(frames.ids, frames.files, labels).ordered()
    clips = pc.replace_substring_regex(listing.ids, r"/[^/]*$", "")
    listing = listing.by_clip_and_time(clips, times_from_names(listing.ids, clips))
    listing = choose(listing.around_labels(config.around_labels), config)
    label_ids = None if config.labels is None else config.label_ids()
    return FileSource(listing, config.stated(), label_ids, sparse=True)


def _labels(config: ClipsConfig, frames: NamedFiles) -> Files:
    root, folder = config.folders()
    # realpath: unlike resolve() it leaves links in a circle to be named when they are read
    if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root)):
        raise ConfigError(
            f"labels {folder} lies inside root {root}: label maps would be taken for frames; "
            "keep them in a folder beside it"
        )
    return frames.labels_from(find_images(folder, recursive=True).by_stem())


def times_from_names(ids: Any, clips: Any) -> NDArray[np.int64]:
    """Read the times of frames from their names, or count them; frames are in natural order.

    Args:
        ids: LargeStringArray in natural order
        clips: LargeStringArray, the clip of each
    """
    numbers = pc.struct_field(pc.extract_regex(ids, _NUMBER), "number")
    digits = pc.replace_substring_regex(numbers, r"^0+([0-9])", r"\1")
    long = ids.filter(pc.fill_null(pc.greater(pc.binary_length(digits), _DIGITS), False))
    if len(long):
        raise ConfigError(
            f"frame {long[0].as_py()!r}: the last number of its name is its time, and has "
            f"more than {_DIGITS} digits; rename the clip's files"
        )
    which = np.asarray(clips.dictionary_encode().indices)
    numbered = np.asarray(pc.is_valid(digits))
    count, with_number = np.bincount(which), np.bincount(which, weights=numbered)
    mixed = (with_number > 0) & (with_number < count)
    if mixed[which].any():
        without = int(np.flatnonzero(mixed[which] & ~numbered)[0])
        raise ConfigError(
            f"frame {ids[without].as_py()!r} has no number in its name, where other frames of its "
            "clip have one that is their time; give it a number, or take it out of the folder"
        )
    times = np.asarray(pc.fill_null(pc.cast(digits, pa.int64()), 0)).copy()
    by_clip = np.argsort(which, kind="stable")
    starts = np.concatenate([[0], np.cumsum(count)])[which[by_clip]]
    places = np.empty(len(times), np.int64)
    places[by_clip] = np.arange(len(times)) - starts
    result: NDArray[np.int64] = np.where(numbered, times, places)
    return result
