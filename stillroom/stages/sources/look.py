"""Look at folders that nobody has described: which sources lie there, and how they are read."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from stillroom.stages.sources.find_images import find_images
from stillroom.stages.sources.image_files import IMAGE_SUFFIXES
from stillroom.stages.sources.label_files import read_label
from stillroom.stages.sources.recognise import KNOWN, part_of, recognise
from stillroom.stages.sources.video import VIDEO_SUFFIXES
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import (
    ConfigError,
    FrameError,
    SourceUnavailable,
    StillroomError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Role = Literal["train", "val", "test", "unlabelled"]
ROLES = get_args(Role)
SAMPLE = 24  # files that are opened
SIDE, FEW = 64, 40  # pixels of a small copy, and how few values no grey photo has
NAMED = 5  # folders, before the rest is counted

_ROLES: dict[str, Role] = {
    "train": "train", "training": "train", "trainaug": "train",
    "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test",
}  # fmt: skip
_SHARDS = {"webdataset": (".tar",), "hf_dataset": (".parquet", ".arrow")}
_IMAGES = ("images", "imgs", "image", "img", "rgb", "frames", "JPEGImages")
_MASKS = ("masks", "mask", "labels", "label", "annotations", "gt", "SegmentationClass")


@dataclass(frozen=True)
class FoundSource:
    """A source of a run file.

    Attributes:
        settings: its section
        remarks: what was seen that the section follows from, a line each
    """

    role: Role
    settings: dict[str, Any]
    remarks: tuple[str, ...] = field(default=())

    @property
    def is_trained_on(self) -> bool:
        """Whether it is cached, and a stream of the run."""
        return self.role in ("train", "unlabelled")


def look(folder: Path) -> list[FoundSource]:
    """Return the sources that a folder holds; at most one of each role.

    A public data set by its layout, else folders of images with masks, for each split or for all,
    else images or videos without labels.

    Raises:
        ConfigError: nothing of the kind is there, or label files cannot be read as such.
    """
    if folder.is_file() and folder.suffix.lower() in VIDEO_SUFFIXES:
        return [_video(folder)]
    if not folder.is_dir():
        raise ConfigError(f"{folder} is neither a folder nor a video; give one that holds the data")
    kind = recognise(folder)
    found = list(_splits(folder, kind)) if kind is not None else list(_pairs(folder))
    if found:
        first: dict[Role, FoundSource] = {}
        for each in found:
            first.setdefault(each.role, each)
        return sorted(first.values(), key=lambda each: ROLES.index(each.role))
    return [_unlabelled(folder)]


def _some(folder: Path) -> list[Path]:
    named = find_images(folder, recursive=True).names.to_pylist()
    return [folder / name for name in named[:: max(1, len(named) // SAMPLE)][:SAMPLE]]


def _splits(folder: Path, kind: str) -> Iterator[FoundSource]:
    data_set = KNOWN[kind]
    there = [
        split
        for split in data_set.splits
        for layout, root in [data_set.find(folder, split)]
        if not layout.missing(root, split)
    ]
    remarks = [f"{kind}, by its layout: {', '.join(there)} are there"]
    if others := _beside(folder, data_set.find(folder, there[0])[1] if there else folder):
        remarks.append(f"not looked at: {others}; name a folder of its own instead to use it")
    # Of two of a role the last: trainaug holds train.
    chosen = {_ROLES[split]: split for split in there if split in _ROLES}
    for role in sorted(chosen, key=ROLES.index):
        settings = {"kind": kind, "root": str(folder), "split": chosen[role]}
        yield FoundSource(role, settings, tuple(remarks))
        remarks.clear()  # once is enough


def _beside(folder: Path, root: Path) -> str:
    """Name the folders beside the one that a data set lies in; "" where that is `folder`."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    names = [path.name for path in inside if root != folder and not root.is_relative_to(path)]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _pairs(folder: Path) -> Iterator[FoundSource]:
    """Folders of images with masks: in a folder a split, or split folders in each of both."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    for path in inside:
        if path.name.lower() in _ROLES and (pair := _pair(path)):
            yield _masked(_ROLES[path.name.lower()], *pair)
    if not (pair := _pair(folder)):
        return
    images, masks = pair
    splits = [path.name for path in sorted(images.iterdir()) if path.name.lower() in _ROLES]
    for name in splits:
        if (masks / name).is_dir():
            yield _masked(_ROLES[name.lower()], images / name, masks / name)
    if not splits:
        yield _masked("train", images, masks)


def _pair(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and masks in a folder, by their usual names."""
    here = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    images, masks = (
        next((here[name.lower()] for name in names if name.lower() in here), None)
        for names in (_IMAGES, _MASKS)
    )
    return (images, masks) if images is not None and masks is not None else None


def _masked(role: Role, images: Path, masks: Path) -> FoundSource:
    settings: dict[str, Any] = {"kind": "image_mask", "images": str(images), "masks": str(masks)}
    found, remark = _ids(masks)
    if found == {0, IGNORE}:
        two = {"classes": ["background", "object"], "mapping": {0: 0, IGNORE: 1}, "ignore": []}
        other = (
            f"{IGNORE} is taken for a class; where it means no label, leave out all but `classes`"
        )
        return FoundSource(role, settings | two, (remark, other))
    classes = sorted(found - {IGNORE})
    if not classes:
        raise ConfigError(
            f"{masks}: no pixel has a class, {remark}, and {IGNORE} means none; expected the id of "
            "a class as the value of each labelled pixel"
        )
    if classes[-1] < IGNORE and classes[0] >= 0:
        count = classes[-1] + 1
        more = "are there more classes than were seen? raise `classes`, or list their names"
        if len(classes) < count / 2:
            more = f"most ids below {count} were not seen: a `mapping` keeps those that are used"
        return FoundSource(role, settings | {"classes": count}, (remark, more))
    mapping = {raw: place for place, raw in enumerate(classes)}
    known = {"classes": len(classes), "mapping": mapping}
    return FoundSource(role, settings | known, (remark, "ids that were not seen are faults"))


def _ids(masks: Path) -> tuple[set[int], str]:
    """Return the ids in some masks, and say so; masks that cannot be read are counted.

    Raises:
        ConfigError: none of them can be read.
    """
    found: set[int] = set()
    faults: list[StillroomError] = []
    opened = _some(masks)
    for path in opened:
        try:
            found |= set(np.unique(read_label(path)).tolist())
        except (FrameError, SourceUnavailable) as error:
            faults.append(error)
    if len(faults) == len(opened):
        raise ConfigError(
            f"{masks}: no class ids in any of {len(opened)} files: {faults[0]}\n  a mask has the "
            "id of each pixel's class as its value; convert colours to ids first"
        ) from faults[0]
    shown = ", ".join(map(str, sorted(found)[:12])) + (", ..." if len(found) > 12 else "")
    left = f"; {len(faults)} cannot be used, as {faults[0]}" if faults else ""
    return found, f"ids {shown} in {len(opened) - len(faults)} masks{left}"


def _unlabelled(folder: Path) -> FoundSource:
    suffixes = Counter(path.suffix.lower() for path in folder.rglob("*") if path.is_file())
    images = sum(suffixes[each] for each in IMAGE_SUFFIXES)
    videos = sum(suffixes[each] for each in VIDEO_SUFFIXES)
    if not images and not videos:
        shards = [kind for kind, endings in _SHARDS.items() if any(map(suffixes.get, endings))]
        hint = (
            f"; its shards are read by kind = {shards[0]!r}, in a section of yours"
            if shards
            else ""
        )
        raise ConfigError(
            f"{folder}: no data set that is known (docs/datasets.md), no folders of images and "
            f"masks, no images and no videos{hint}"
        )
    if (rgbd := _rgbd(folder)) is not None:
        return rgbd
    if videos > images:
        return _video(folder, f"{videos} video{'s' * (videos > 1)}")
    remarks = [f"{images} image{'s' * (images > 1)}, without masks"]
    part = part_of(folder)
    if part is not None and part.role == "images":
        remarks.append(
            str(part) if part.missing else f"{part}; give that folder to learn from its labels"
        )
    elif part is not None:
        raise ConfigError(f"{folder} holds labels, not images; {part}: give that folder")
    elif _are_masks(folder):
        raise ConfigError(
            f"{folder}: these look like masks, not images; give the folder in which both lie"
        )
    return FoundSource("unlabelled", {"kind": "images", "root": str(folder)}, tuple(remarks))


def _rgbd(folder: Path) -> FoundSource | None:
    """The colour images and depth maps of a folder, or of the split in it to train on."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    places = [path for path in (folder, *inside) if {"color", "depth"} <= _names(path)]
    if not places:
        return None
    place = min(places, key=lambda path: _ROLES.get(path.name.lower()) != "train")
    remarks = ["colour images with depth maps; a student of depth: docs/depth.md"]
    if others := ", ".join(path.name for path in places if path != place):
        remarks.append(f"not taken: {others}; a section of its own takes it, to score on")
    return FoundSource("unlabelled", {"kind": "rgbd", "root": str(place)}, tuple(remarks))


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def _video(place: Path, *remarks: str) -> FoundSource:
    return FoundSource("unlabelled", {"kind": "video", "root": str(place)}, remarks)


def _are_masks(folder: Path) -> bool:
    """Whether some images all have one channel, and as few values as masks have ids."""
    counts = []
    for path in _some(folder):
        with suppress(OSError, Image.DecompressionBombError), Image.open(path) as image:
            small = image.resize((SIDE, SIDE), Image.Resampling.NEAREST)
            one = len(image.getbands()) == 1
            counts.append(len(np.unique(np.asarray(small))) if one else SIDE * SIDE)
    return bool(counts) and max(counts) <= FEW
