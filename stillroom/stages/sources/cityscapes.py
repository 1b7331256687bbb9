"""Cityscapes with the frames around each labelled one: snippets of 30, of which one is labelled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from stillroom.stages.class_lists import CLASS_TABLES
from stillroom.stages.sources.choose import choose
from stillroom.stages.sources.file_source import FileSource
from stillroom.stages.sources.find_images import find_images, kind_at
from stillroom.stages.sources.label_ids import LabelIds
from stillroom.stages.sources.listing import Listing
from stillroom.stages.sources.names import at
from stillroom.stages.sources.source_settings import FileSettings
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = CLASS_TABLES["cityscapes"].names

BEFORE, AFTER = 19, 10  # frames of a snippet before and after its labelled one
SNIPPET = BEFORE + 1 + AFTER
_FRAME = r"^(?P<sequence>(?:.*/)?[^/]+_[0-9]{1,9})_(?P<number>[0-9]{1,9})$"
_APART = 1 << 32  # between the keys of two sequences: above any frame number


class CityscapesSequenceConfig(FileSettings):
    """One split of Cityscapes: `leftImg8bit_sequence/` and the labels of `gtFine/`.

    Attributes:
        root: the folder that holds both.
        split: train, val or test.
        around_labels: leaves out frames more than so many steps from a labelled one: with 3, 7
            frames of a snippet are left of 30; None keeps all.
    """

    kind: Literal["cityscapes_sequence"] = "cityscapes_sequence"
    root: Path
    split: Literal["train", "val", "test"] = "train"
    around_labels: int | None = Field(default=None, ge=0)

    def folders(self) -> tuple[Path, Path]:
        """Return the folders of frames and of labels."""
        root = self.root.expanduser()
        return root / "leftImg8bit_sequence" / self.split, root / "gtFine" / self.split

    def stated(self) -> dict[str, Any]:
        """Return kind, draw, split and classes."""
        return {**super().stated(), "split": self.split, "classes": list(CLASSES)}


def open_cityscapes_sequence(config: CityscapesSequenceConfig) -> FileSource:
    """List one split; a frame is named like `aachen/aachen_000000_000019`.

    A clip is a snippet, a time is a frame number. In most cities every snippet has a sequence
    number of its own. In some, such as Hamburg and Bochum, one sequence is a long drive of which
    snippets were cut out, some of them back to back, so that neither the sequence nor a gap of
    frame numbers separates them. The labelled frame does, of which 19 frames come before and 10
    after: those of them that are there are its clip, whatever is missing between, and the clip has
    the labelled frame's name. Where two such windows overlap, the earlier one has the
    frames. A frame in no window belongs to its run of consecutive numbers, cut every 30 frames;
    such a clip has the name of its first frame.

    Raises:
        ConfigError: a folder is missing, unreadable or empty, a name is not of this form, two
            files have one name, or no frame has a label.
    """
    folder, label_folder = config.folders()
    _refuse_single_frames(config, folder)
    frames = find_images(folder, recursive=True).by_stem("_leftImg8bit")
    labels = find_images(label_folder, recursive=True).by_stem("_gtFine_labelIds")
    listing = Listing(frames.ids, frames.files, frames.labels_from(labels))
    listing = listing.by_clip_and_time(*_snippets(frames.ids, labels.ids))
    listing = choose(listing.around_labels(config.around_labels), config)
    index_of = {raw: index for index, raw in enumerate(CLASS_TABLES["cityscapes"].ids)}
    label_ids = LabelIds(CLASSES, index_of, ignore_unlisted=True)
    return FileSource(listing, config.stated(), label_ids, sparse=True)


def _refuse_single_frames(config: CityscapesSequenceConfig, folder: Path) -> None:
    single = config.root.expanduser() / "leftImg8bit"
    if kind_at(folder) is None and kind_at(single) == "folder":
        raise ConfigError(
            f"{folder} does not exist, only {single} with the labelled frames alone; this kind "
            "wants the frames around them, leftImg8bit_sequence_trainvaltest.zip of Cityscapes; "
            'for single frames take kind = "cityscapes"'
        )


def _snippets(ids: Any, labelled: Any) -> tuple[Any, NDArray[np.int64]]:
    """Return clip (LargeStringArray) and time (int64) of each frame.

    Args:
        ids, labelled: LargeStringArray, the frames and the labels
    """
    sequence, number = _parts(ids)
    label_sequence, label_number = _parts(labelled)
    known = pc.unique(pa.concat_arrays([sequence, label_sequence]))
    key = np.asarray(pc.index_in(sequence, value_set=known)).astype(np.int64) * _APART + number
    label_key = np.asarray(pc.index_in(label_sequence, value_set=known)).astype(np.int64)
    label_key = label_key * _APART + label_number
    order = np.argsort(label_key)
    label_key = label_key[order]
    # The first label whose window ends at this frame or later; keys of sequences lie far apart.
    first = np.searchsorted(label_key, key - AFTER)
    first = np.minimum(first, len(label_key) - 1)
    ahead = label_key[first] - key
    inside = (ahead >= -AFTER) & (ahead <= BEFORE)
    named = np.where(inside, order[first], len(labelled) + _run_starts(key, inside))
    return at(pa.array(named), pa.concat_arrays([labelled, ids])), number


def _run_starts(key: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return, for every frame in no window, the frame that its clip begins with; else anything.

    Args:
        key: int64 (N,), consecutive for consecutive frames of a sequence
    """
    outside = np.flatnonzero(~inside)
    outside = outside[np.argsort(key[outside])]
    begins = np.diff(key[outside], prepend=-2) != 1
    here = np.arange(len(outside))
    run = np.maximum.accumulate(np.where(begins, here, 0))
    starts = np.zeros(len(key), np.int64)
    starts[outside] = outside[run + (here - run) // SNIPPET * SNIPPET]
    return starts


def _parts(ids: Any) -> tuple[Any, NDArray[np.int64]]:
    """Split names into sequences (`aachen/aachen_000000`) and frame numbers."""
    parts = pc.extract_regex(ids, _FRAME)
    if parts.null_count:
        strange = ids.filter(pc.is_null(parts))[0].as_py()
        raise ConfigError(
            f"{strange!r} is no name of Cityscapes, such as 'aachen/aachen_000000_000019'; "
            "take it out of the folder"
        )
    number = pc.cast(pc.struct_field(parts, "number"), pa.int64())
    return pc.struct_field(parts, "sequence"), np.asarray(number)
