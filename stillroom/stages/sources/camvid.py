"""CamVid in the folders of the SegNet release: `<split>/` and `<split>annot/`, 11 classes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from stillroom.stages.class_lists import CLASS_LISTS
from stillroom.stages.sources.choose import choose
from stillroom.stages.sources.file_source import FileSource
from stillroom.stages.sources.find_images import find_images
from stillroom.stages.sources.label_ids import LabelIds
from stillroom.stages.sources.listing import Listing
from stillroom.stages.sources.source_settings import FileSettings
from stillroom.storage_specs.artifacts import IGNORE

CLASSES = CLASS_LISTS["camvid"]
VOID = 11

_NAME = re.compile(r"(.+?)_f?(\d+)")


class CamVidConfig(FileSettings):
    """One split of CamVid.

    Attributes:
        root: the folder that holds `train/`, `trainannot/` and so on.
        split: train, val or test.
    """

    kind: Literal["camvid"] = "camvid"
    root: Path
    split: Literal["train", "val", "test"] = "train"

    def folders(self) -> tuple[Path, Path]:
        """Return the folders of images and of labels."""
        root = self.root.expanduser()
        return root / self.split, root / f"{self.split}annot"

    def stated(self) -> dict[str, Any]:
        """Return kind, draw, split and classes."""
        return {**super().stated(), "split": self.split, "classes": list(CLASSES)}


def open_camvid(config: CamVidConfig) -> FileSource:
    """List one split. Clip and time come from names like `0016E5_07959` and `0006R0_f00930`.

    Raises:
        ConfigError: a folder is missing, unreadable or empty, two of its files have one name, or
            not all that is chosen is there.
    """
    images, labels = (find_images(each, recursive=False).by_stem() for each in config.folders())
    label_of = pc.index_in(images.ids, value_set=labels.ids)  # null where it has none
    listing = Listing(images.ids, images.files, labels.files.take(label_of)).ordered()
    listing = choose(listing, config)
    ids = {index: index for index in range(len(CLASSES))} | {VOID: IGNORE}
    return FileSource(listing, config.stated(), LabelIds(CLASSES, ids), position_of=clip_and_time)


def clip_and_time(frame_id: str) -> tuple[str | None, int | None]:
    """Read clip and time from a frame's name."""
    named = _NAME.fullmatch(frame_id)
    return (None, None) if named is None else (named[1], int(named[2]))
