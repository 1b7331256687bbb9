"""Read boxes of objects: YOLO's text files, and COCO's JSON file of instances."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.sources.read_faults import read_fault
from stillroom.storage_specs.errors import ConfigError, FrameError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.sources.encoded_file import EncodedFile

MALFORMED = (OSError, ValueError, LookupError, TypeError, AttributeError)
CocoBox = tuple[float, float, float, float, int]

NO_BOX = -1.0  # in place of a class, in the rows beyond a frame's last box


def padded(boxes: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Return boxes (n, 5) as the first rows of (most, 5); the others are 0, 0, 0, 0, -1.

    Raises:
        FrameError: there are more.
    """
    if len(boxes) > most:
        raise FrameError(f"{len(boxes)} boxes, and there is room for {most}; raise `most`")
    made = np.zeros((most, 5), np.float32)
    made[len(boxes) :, 4] = NO_BOX
    made[: len(boxes)] = boxes
    return made


def _cut(
    name: str, boxes: NDArray[np.float64], size: tuple[int, ...], most: int
) -> NDArray[np.float32]:
    """Cut boxes to an image of this (height, width).

    Raises:
        FrameError: one has no size, or lies outside; or there are too many.
    """
    corners = boxes[:, :4]
    if not np.isfinite(corners).all():
        raise FrameError(f"{name}: a box has a corner that is no finite number")
    flat = (corners[:, 2:] <= corners[:, :2]).any(1)
    boxes = boxes.copy()
    boxes[:, :4] = corners.clip(0, [size[1], size[0]] * 2)
    outside = (boxes[:, 2:4] <= boxes[:, :2]).any(1)
    for wrong, what in ((flat, "has no size"), (outside, "lies outside the image")):
        if wrong.any():
            left, top, right, bottom = corners[wrong.argmax()].tolist()
            raise FrameError(
                f"{name}: {wrong.sum()} of {len(boxes)} boxes: one from ({left:g}, {top:g}) to "
                f"({right:g}, {bottom:g}) {what} of {size[1]}x{size[0]} pixels; remove it"
            )
    try:
        return padded(boxes.astype(np.float32), most)
    except FrameError as error:
        raise FrameError(f"{name}: {error}") from error


@dataclass(frozen=True)
class YoloBoxes:
    """Reads text files: a line a box, of class and x, y of the centre, width, height as shares.

    Attributes:
        classes: how many there are.
        most: boxes of a frame that there is room for.
    """

    classes: int
    most: int

    def shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an image's boxes."""
        return self.most, 5

    def read(self, file: EncodedFile, size: tuple[int, ...]) -> NDArray[np.float32]:
        """Read the boxes (most, 5) of an image of this size; an empty file has none.

        Raises:
            FrameError: a line is none of five numbers, a class is unknown, or a box is not within
                the image.
            SourceUnavailable: it cannot be read now.
        """
        try:
            lines = file.read_bytes().decode().splitlines()
        except OSError as fault:
            raise read_fault(file, fault) from fault
        except UnicodeDecodeError as fault:
            raise FrameError(f"{file.name}: is no text; expected YOLO's lines of boxes") from fault
        rows = [self._row(file.name, line.split()) for line in lines if line.strip()]
        found = np.array(rows, np.float64).reshape(-1, 5)
        centre = found[:, 1:3] * (size[1], size[0])
        half = found[:, 3:5] * (size[1], size[0]) / 2
        boxes = np.concatenate([centre - half, centre + half, found[:, :1]], axis=1)
        return _cut(file.name, boxes, size, self.most)

    def _row(self, name: str, words: Sequence[str]) -> list[float]:
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            numbers = []
        if len(numbers) != 5:
            raise FrameError(
                f"{name}: {' '.join(words)!r} is no box: expected class, x, y, width, height"
            )
        if numbers[0] not in range(self.classes):
            raise FrameError(f"{name}: class {words[0]}; expected 0 to {self.classes - 1}")
        if not all(0 <= number <= 1 for number in numbers[1:]):
            raise FrameError(
                f"{name}: {' '.join(words)!r}: expected shares of the image, 0 to 1, and no pixels"
            )
        return numbers


@dataclass(frozen=True, eq=False)
class CocoBoxes:
    """Reads the boxes of images from COCO's JSON file of instances, by the images' names.

    Crowds, which are no single objects, are passed over.

    Attributes:
        classes: names of the categories, in the order of the boxes' classes.
        most: boxes of a frame that there is room for.
    """

    annotations: Path
    classes: tuple[str, ...]
    most: int

    def shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an image's boxes."""
        return self.most, 5

    def read(self, file: EncodedFile, size: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the boxes (most, 5) of an image file.

        Raises:
            FrameError: the JSON file does not have the image once, or not of this size; a category
                is unknown, or a box is not within the image.
            ConfigError: the JSON file cannot be read as what it should be.
        """
        name = file.name
        if name not in self._images:
            raise FrameError(f"{name}: {self.annotations.name} has no image of this name")
        found = self._images[name]
        if found is None:
            raise FrameError(
                f"{name}: {self.annotations.name} has several images of this name, and they pair "
                "by it; rename them, or take a JSON file for each of their folders"
            )
        height, width, boxes = found
        if (height, width) != tuple(size):
            raise FrameError(
                f"{name}: {self.annotations.name} has it as {height}x{width}, and it is "
                f"{size[0]}x{size[1]} (height x width)"
            )
        unknown = sorted({category for *_, category in boxes if category not in self._index})
        if unknown:
            raise FrameError(
                f"{name}: a box is of category {unknown[0]}, which {self.annotations.name} or "
                "`classes` does not have"
            )
        rows = [(x, y, x + w, y + h, self._index[category]) for x, y, w, h, category in boxes]
        return _cut(name, np.array(rows, np.float64).reshape(-1, 5), size, self.most)

    @cached_property
    def _document(self) -> dict[str, Any]:
        return read_coco(self.annotations)

    @cached_property
    def _index(self) -> dict[int, int]:
        """Class of a category's id."""
        names = {name: place for place, name in enumerate(self.classes)}
        return {
            one["id"]: names[one["name"]]
            for one in self._document["categories"]
            if one["name"] in names
        }

    @cached_property
    def _images(self) -> dict[str, tuple[int, int, list[CocoBox]] | None]:
        """Height, width and boxes by the name of a file; None of a name that is there twice."""
        document = self._document
        try:
            return _by_name(document)
        except MALFORMED as fault:
            raise _no_instances(self.annotations, fault) from fault

    def __reduce__(self) -> tuple[Any, ...]:
        return CocoBoxes, (self.annotations, self.classes, self.most)


def _by_name(document: dict[str, Any]) -> dict[str, tuple[int, int, list[CocoBox]] | None]:
    of: dict[int, list[CocoBox]] = {}  # x, y, width, height, category
    for one in document["annotations"]:
        if not one.get("iscrowd"):
            x, y, width, height = map(float, one["bbox"])
            of.setdefault(one["image_id"], []).append((x, y, width, height, one["category_id"]))
    found: dict[str, tuple[int, int, list[CocoBox]] | None] = {}
    for one in document["images"]:
        name = PurePosixPath(one["file_name"]).name
        there = one["height"], one["width"], of.get(one["id"], [])
        found[name] = None if name in found else there
    return found


def _no_instances(path: Path, fault: Exception) -> ConfigError:
    return ConfigError(
        f"{path} cannot be read as COCO's instances ({fault!r}); expected a JSON file with lists "
        "`images` (id, file_name, height, width), `annotations` (image_id, category_id, bbox of 4 "
        "numbers) and `categories` (id, name)"
    )


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal (ConfigError: it cannot be read)."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as fault:
        raise _no_instances(path, fault) from fault


def read_coco(path: Path) -> dict[str, Any]:
    """Read a JSON file with `images`, `annotations` and `categories`.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf8"))
        for key in ("images", "annotations", "categories"):
            document[key][:0]
        for one in document["categories"]:
            int(one["id"]), str(one["name"])
    except MALFORMED as fault:
        raise _no_instances(path, fault) from fault
    return dict(document)


def coco_classes(path: Path) -> tuple[str, ...]:
    """Return the names of a JSON file's categories, in the order of their ids."""
    categories = sorted(read_coco(path)["categories"], key=lambda one: int(one["id"]))
    return tuple(str(one["name"]) for one in categories)
