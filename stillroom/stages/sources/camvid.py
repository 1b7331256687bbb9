"""CamVid in the folders of the SegNet release: `<split>/` and `<split>annot/`, 11 classes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from stillroom.stages.sources.files import FileSource
from stillroom.stages.sources.label_ids import LabelIds
from stillroom.stages.sources.listing import Listing, find_images
from stillroom.stages.sources.source_settings import SourceSettings
from stillroom.storage_specs.artifacts import IGNORE

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
VOID = 11

_NAME = re.compile(r"(.+?)_f?(\d+)")


class CamVidConfig(SourceSettings):
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
        """Return kind, split and classes."""
        return {"kind": self.kind, "split": self.split, "classes": list(CLASSES)}


def open_camvid(config: CamVidConfig) -> FileSource:
    """List one split. Clip and time come from names like `0016E5_07959` and `0006R0_f00930`.

    Raises:
        ConfigError: a folder is missing, unreadable or empty, or two of its files have one name.
    """
    image_folder, label_folder = config.folders()
    names, images = find_images(image_folder, recursive=False).by_stem()
    labelled, labels = find_images(label_folder, recursive=False).by_stem()
    listing = Listing(names, images, labels.take(pc.index_in(names, value_set=labelled)))
    ids = {index: index for index in range(len(CLASSES))} | {VOID: IGNORE}
    return FileSource(listing, config.stated(), LabelIds(CLASSES, ids), position_of=clip_and_time)


def clip_and_time(frame_id: str) -> tuple[str | None, int | None]:
    """Clip and time as a frame's name has them."""
    named = _NAME.fullmatch(frame_id)
    return (None, None) if named is None else (named[1], int(named[2]))
