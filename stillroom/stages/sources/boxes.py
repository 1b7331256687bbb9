"""Images with boxes of the objects that they show: YOLO's text files, or COCO's JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, model_validator

from stillroom.stages.class_lists import numbered
from stillroom.stages.sources.box_files import CocoBoxes, YoloBoxes, coco_classes, digest_of
from stillroom.stages.sources.choose import choose
from stillroom.stages.sources.file_source import FileSource
from stillroom.stages.sources.find_images import find_images
from stillroom.stages.sources.listing import Listing
from stillroom.stages.sources.names import repeated
from stillroom.stages.sources.source_settings import FileSettings
from stillroom.storage_specs.artifacts import BOXES
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.stages.sources.file_source import TargetReader


class BoxesConfig(FileSettings):
    """Images and their boxes.

    Attributes:
        images: the folder of images, read with its subfolders.
        boxes: the folder of YOLO's text files, laid out like it; or COCO's JSON file of instances.
        classes: names of the boxes' classes, the name of a list of them, or their number; of a JSON
            file its categories in the order of their ids, if left out.
        most: boxes of one frame that there is room for; a frame with more goes without.
    """

    kind: Literal["boxes"] = "boxes"
    images: Path
    boxes: Path
    classes: Annotated[tuple[str, ...] | None, BeforeValidator(numbered)] = None
    most: int = Field(default=100, ge=1, le=4096)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.classes is None and not self.is_coco:
            raise ValueError("YOLO's files have no names of classes: give `classes`")
        if self.classes is not None and len(set(self.classes)) != len(self.classes or (0, 0)):
            raise ValueError("classes: expected one at least, each once")
        return self

    @property
    def is_coco(self) -> bool:
        """Whether the boxes are in one JSON file."""
        return self.boxes.suffix.lower() == ".json"

    def folders(self) -> tuple[Path, ...]:
        """Return the folder of images, and the folder or file of boxes."""
        return self.images.expanduser(), self.boxes.expanduser()

    def further_targets(self) -> tuple[str, ...]:
        """Return boxes."""
        return (BOXES,)

    def box_classes(self) -> tuple[str, ...]:
        """Return the classes; of a JSON file without them, read from it."""
        return coco_classes(self.folders()[1]) if self.classes is None else self.classes

    def most_boxes(self) -> int:
        """Return the room."""
        return self.most

    def stated(self) -> dict[str, Any]:
        """Return kind, draw, and how boxes are read."""
        listed = None if self.classes is None else list(self.classes)
        return {**super().stated(), "targets": {BOXES: {"classes": listed, "most": self.most}}}


def open_boxes(config: BoxesConfig) -> FileSource:
    """List the images; a frame is named by its path below their folder, suffix dropped.

    An image without a text file, in a source of them, has no boxes that are known: an empty file
    says that there is no object.

    Raises:
        ConfigError: a folder is missing, unreadable or empty, no image has a text file, or the
            JSON file is none, or images that it pairs by their names have one twice.
    """
    images, place = config.folders()
    frames = find_images(images, recursive=True).by_stem()
    stated, reader = config.stated(), _reader(config)
    if config.is_coco:
        files = frames.files
        _demand_names_once(frames.ids)
        stated["annotations_sha256"] = digest_of(place)
    else:
        texts = find_images(place, recursive=True, suffixes=frozenset({".txt"}))
        files = frames.labels_from(texts.by_stem(), "image", "text file of boxes")
    listing = Listing(frames.ids, frames.files, targets={BOXES: files}).ordered()
    return FileSource(choose(listing, config), stated, sparse=True, targets={BOXES: reader})


def _demand_names_once(ids: Any) -> None:
    names = pc.replace_substring_regex(ids, r"^.*/", "")
    if twice := repeated(names.take(pc.sort_indices(names))):
        raise ConfigError(
            f"{twice[0]}: two images in different folders have this name, by which a JSON file of "
            "boxes pairs; make a source of each folder"
        )


def _reader(config: BoxesConfig) -> TargetReader:
    classes = config.box_classes()
    if config.is_coco:
        return CocoBoxes(config.folders()[1], classes, config.most)
    return YoloBoxes(len(classes), config.most)
