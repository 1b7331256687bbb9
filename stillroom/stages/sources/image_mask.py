"""Image folders with label masks of the same names beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import pyarrow.compute as pc
from pydantic import Field, model_validator

from stillroom.stages.sources.choose import choose
from stillroom.stages.sources.file_source import FileSource
from stillroom.stages.sources.find_images import find_images
from stillroom.stages.sources.label_ids import ClassNames, LabelSettings
from stillroom.stages.sources.listing import Listing
from stillroom.stages.sources.recognise import warn_of_splits


class ImageMaskConfig(LabelSettings):
    """Images and masks paired by their paths below two folders, suffixes aside.

    Classes and ids are those of `LabelSettings`.

    Attributes:
        root: a folder with `images/` and `masks/`; or leave it out and give both folders.
        images: the folder of images, read with its subfolders.
        masks: the folder of masks, laid out like it.
        image_ending: dropped from an image's name before pairing ("_leftImg8bit").
        mask_ending: dropped from a mask's name before pairing ("_gtFine_labelIds").
        without_mask: an image without a mask has a bad label, or is left out.
    """

    kind: Literal["image_mask"] = "image_mask"
    root: Path | None = None
    images: Path | None = None
    masks: Path | None = None
    image_ending: str = ""
    mask_ending: str = ""
    classes: ClassNames = Field(min_length=1, max_length=255)
    without_mask: Literal["bad", "skip"] = "bad"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.root is None) == (self.images is None and self.masks is None):
            raise ValueError("give either `root`, or both `images` and `masks`")
        if self.root is None and (self.images is None or self.masks is None):
            raise ValueError("`images` and `masks` go together")
        return self

    def folders(self) -> tuple[Path, Path]:
        """Return the folders of images and of masks."""
        if self.images is not None and self.masks is not None:
            return self.images.expanduser(), self.masks.expanduser()
        root = (self.root or Path()).expanduser()
        return root / "images", root / "masks"


def open_image_mask(config: ImageMaskConfig) -> FileSource:
    """Pair images with masks; a frame is named by its path below `images`, suffix dropped.

    Raises:
        ConfigError: a folder is missing, unreadable or empty, two files have one name, or no
            image has a mask.
    """
    image_folder, mask_folder = config.folders()
    warn_of_splits(image_folder, config)
    images = find_images(image_folder, recursive=True).by_stem(config.image_ending)
    masks = find_images(mask_folder, recursive=True).by_stem(config.mask_ending)
    labels = images.labels_from(masks, "image", "mask")
    listing = Listing(images.ids, images.files, labels)
    if config.without_mask == "skip":
        listing = listing.take(pc.indices_nonzero(pc.is_valid(labels.pattern)))
    return FileSource(choose(listing.ordered(), config), config.stated(), config.label_ids())
