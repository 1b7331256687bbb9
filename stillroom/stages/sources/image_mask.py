"""Image folders with label masks of the same names beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import pyarrow.compute as pc
from pydantic import Field, model_validator

from stillroom.stages.settings import Settings
from stillroom.stages.sources.files import FileSource, LabelIds
from stillroom.stages.sources.listing import Files, Listing, find_images
from stillroom.stages.sources.source import IGNORE
from stillroom.storage_specs.errors import ConfigError


class ImageMaskConfig(Settings):
    """Images and masks paired by their paths below two folders, suffixes aside.

    Attributes:
        root: a folder with `images/` and `masks/`; or leave it out and give both folders.
        images: the folder of images, read with its subfolders.
        masks: the folder of masks, laid out like it.
        image_ending: dropped from an image's name before pairing ("_leftImg8bit").
        mask_ending: dropped from a mask's name before pairing ("_gtFine_labelIds").
        classes: names of the class indices.
        mapping: raw id in a mask -> class index; None where masks hold the indices.
        ignore: raw ids that do not count.
        unlisted: what an id in neither means: a fault of its frame, or ignore.
        without_mask: an image without a mask becomes a bad row, or is left out.
    """

    kind: Literal["image_mask"] = "image_mask"
    root: Path | None = None
    images: Path | None = None
    masks: Path | None = None
    image_ending: str = ""
    mask_ending: str = ""
    classes: tuple[str, ...] = Field(min_length=1, max_length=255)
    mapping: dict[int, int] | None = None
    ignore: tuple[int, ...] = (IGNORE,)
    unlisted: Literal["fault", "ignore"] = "fault"
    without_mask: Literal["bad", "skip"] = "bad"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.root is None) == (self.images is None and self.masks is None):
            raise ValueError("give either `root`, or both `images` and `masks`")
        if self.root is None and (self.images is None or self.masks is None):
            raise ValueError("`images` and `masks` go together")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have the same name")
        count = len(self.classes)
        wrong = {k: v for k, v in (self.mapping or {}).items() if not 0 <= v < count}
        if wrong:
            raise ValueError(f"mapping {wrong} leads outside the {count} classes (0..{count - 1})")
        both = sorted(set(self.mapping or {}) & set(self.ignore))
        if both:
            raise ValueError(f"ids {both} are both mapped and ignored")
        return self

    def _listed(self) -> dict[int, int]:
        if self.mapping is not None:
            return dict(self.mapping)
        return {index: index for index in range(len(self.classes))}

    def folders(self) -> tuple[Path, Path]:
        """The folders of images and of masks."""
        if self.images is not None and self.masks is not None:
            return self.images.expanduser(), self.masks.expanduser()
        root = (self.root or Path()).expanduser()
        return root / "images", root / "masks"

    def label_ids(self) -> LabelIds:
        """Raw id -> class index or ignore. An ignored id wins over an index of the same value."""
        index_of = self._listed() | dict.fromkeys(self.ignore, IGNORE)
        return LabelIds(self.classes, index_of, self.unlisted == "ignore")


def open_image_mask(config: ImageMaskConfig) -> FileSource:
    """Pair images with masks; a frame is named by its path below `images`, suffix dropped.

    Raises:
        ConfigError: a folder is missing, unreadable or empty, two files have one name, or no
            image has a mask.
    """
    image_folder, mask_folder = config.folders()
    names, images = _by_name(image_folder, config.image_ending)
    masked, masks = _by_name(mask_folder, config.mask_ending)
    mask_of = pc.index_in(names, value_set=masked)  # null where it has none
    if mask_of.null_count == len(names):
        raise ConfigError(
            f"no image of {image_folder} has a mask in {mask_folder}: they pair by name, e.g. "
            f"{names[0].as_py()!r} against {masked[0].as_py()!r}"
        )
    listing = Listing(names, images, masks.take(mask_of))
    if config.without_mask == "skip":
        listing = listing.take(pc.indices_nonzero(pc.is_valid(mask_of)))
    return FileSource(listing, _facts(config), config.label_ids())


def _by_name(folder: Path, ending: str) -> tuple[Any, Files]:
    named, files = find_images(folder, recursive=True).by_stem(ending)
    if not len(named):
        raise ConfigError(f"{folder} holds no image whose name ends in {ending!r}")
    return named, files


def _facts(config: ImageMaskConfig) -> dict[str, Any]:
    ids = config.label_ids()
    return {
        "kind": "image_mask",
        "ids": {str(raw): ids.index_of[raw] for raw in sorted(ids.index_of)},
        "unlisted": config.unlisted,
    }
