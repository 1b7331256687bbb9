"""CamVid in the folders of the SegNet release: `<split>/` and `<split>annot/`, 11 classes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from stillroom.stages.settings import Settings
from stillroom.stages.sources.files import FileSource, LabelIds
from stillroom.stages.sources.listing import ListedFrame, find_images
from stillroom.stages.sources.source import IGNORE

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


class CamVidConfig(Settings):
    """One split of CamVid.

    Attributes:
        root: the folder that holds `train/`, `trainannot/` and so on.
        split: train, val or test.
    """

    kind: Literal["camvid"] = "camvid"
    root: Path
    split: Literal["train", "val", "test"] = "train"


def open_camvid(config: CamVidConfig) -> FileSource:
    """List one split. Clip and time come from names like `0016E5_07959` and `0006R0_f00930`.

    Raises:
        ConfigError: a folder is missing, unreadable or empty.
    """
    root = config.root.expanduser()
    images = find_images(root / config.split, recursive=False)
    labels = {
        file.stem: file for file in find_images(root / f"{config.split}annot", recursive=False)
    }
    frames = []
    for image in images:
        label = labels.get(image.stem)
        named = _NAME.fullmatch(image.stem)
        frames.append(
            ListedFrame(
                frame_id=image.stem,
                image=image.path,
                size=image.size,
                label=None if label is None else label.path,
                label_size=None if label is None else label.size,
                clip=named.group(1) if named else None,
                time=int(named.group(2)) if named else None,
            )
        )
    ids = {index: index for index in range(len(CLASSES))} | {VOID: IGNORE}
    return FileSource(
        tuple(frames), {"kind": "camvid", "split": config.split}, LabelIds(CLASSES, ids)
    )
