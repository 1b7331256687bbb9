"""Public data sets: where each keeps its frames and labels, and what its label files hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.stages.class_lists import CLASS_TABLES
from stillroom.stages.sources.find_images import kind_at
from stillroom.storage_specs.artifacts import IGNORE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Folders and files below a data set's folder; `{}` in them is the word of the split.

    Attributes:
        splits: names of the splits that lie like this -> their words in paths.
        images, labels: folders, whose files pair by their paths.
        depth: a folder of depth maps in metres, or integer millimetres, which pair likewise.
        names: a file of the split's frames, where a folder holds those of several splits.
        segments: a JSON file that says the category of every id in label files of COCO's panoptic
            format; in all others a pixel's value is its id.
        image_ending, label_ending: dropped from names before they pair.
        origin: where a split that is not in the data set's own archives comes from.
    """

    splits: Mapping[str, str]
    images: str
    labels: str
    depth: str = ""
    names: str = ""
    segments: str = ""
    image_ending: str = ""
    label_ending: str = ""
    origin: str = ""

    def paths(self, split: str) -> dict[str, str]:
        """Return what a split needs, below the data set's folder, by the attributes' names."""
        word = self.splits[split]
        given = {name: getattr(self, name) for name in ("images", "labels", "names", "segments")}
        return {name: path.format(word) for name, path in given.items() if path}

    def missing(self, root: Path, split: str) -> int:
        """Count those of a split's places where nothing is."""
        return sum(kind_at(root / path) is None for path in self.paths(split).values())


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        classes: the name of its list of classes.
        layouts: the ways in which its files lie, the one of its own archives first.
        inside: folders of its archives that may be between the given folder and these.
        by_index: whether label files hold class indices, and not the ids of the list.
        ignored: ids that do not count.
        ignore_unlisted: whether any other id does not count either, or is a fault of its frame.
    """

    classes: str
    layouts: tuple[Layout, ...]
    inside: tuple[str, ...] = ()
    by_index: bool = False
    ignored: tuple[int, ...] = (IGNORE,)
    ignore_unlisted: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of its splits."""
        return tuple(dict.fromkeys(name for layout in self.layouts for name in layout.splits))

    def index_of(self) -> dict[int, int]:
        """Return the class index, or 255, of every id that is known."""
        ids = CLASS_TABLES[self.classes].ids
        listed = range(len(ids)) if self.by_index else ids
        return {raw: index for index, raw in enumerate(listed)} | dict.fromkeys(
            self.ignored, IGNORE
        )

    def find(self, root: Path, split: str) -> tuple[Layout, Path]:
        """Return the layout that a split has, and the folder that it starts from.

        Where none is whole, it is the one of which least is missing.
        """
        return min(
            (
                (layout, root / inside)
                for inside in ("", *self.inside)
                for layout in self.layouts
                if split in layout.splits
            ),
            key=lambda found: found[0].missing(found[1], split),
        )


def _same(*splits: str) -> dict[str, str]:
    return {split: split for split in splits}


_OF_2017 = {"train": "train2017", "val": "val2017"}
_CONTEXT = (
    Layout(
        _same("train", "val"),
        "JPEGImages",
        "SegmentationClassContext",
        names="ImageSets/SegmentationContext/{}.txt",
        origin="the labels of Pascal Context as PNG of 0..59, 0 = background, and the lists of its "
        "splits: both are made from trainval_merged.json by the converters of the Detail API",
    ),
)
_CONTEXT_INSIDE = ("VOC2010", "VOCdevkit/VOC2010")
_VOC_NAMES = "ImageSets/Segmentation/{}.txt"

DATA_SETS: dict[str, DataSet] = {
    "cityscapes": DataSet(
        "cityscapes",
        (
            Layout(
                _same("train", "val", "test"),
                "leftImg8bit/{}",
                "gtFine/{}",
                image_ending="_leftImg8bit",
                label_ending="_gtFine_labelIds",
            ),
            Layout(
                _same("train_extra"),
                "leftImg8bit/{}",
                "gtCoarse/{}",
                image_ending="_leftImg8bit",
                label_ending="_gtCoarse_labelIds",
            ),
        ),
        ignored=(),
        ignore_unlisted=True,
    ),
    "pascal_context": DataSet("pascal_context", _CONTEXT, _CONTEXT_INSIDE, ignored=(0, IGNORE)),
    "pascal_context_60": DataSet("pascal_context_60", _CONTEXT, _CONTEXT_INSIDE),
    "voc": DataSet(
        "voc",
        (
            Layout(
                _same("train", "val", "trainval"),
                "JPEGImages",
                "SegmentationClass",
                names=_VOC_NAMES,
            ),
            Layout(
                _same("trainaug"),
                "JPEGImages",
                "SegmentationClassAug",
                names=_VOC_NAMES,
                origin="the labels of the Semantic Boundaries Dataset (Hariharan et al., ICCV "
                "2011) for 10582 frames, as PNG of 0..20 and 255, in SegmentationClassAug/, and "
                "their names in ImageSets/Segmentation/trainaug.txt; VOC's own archive has "
                'neither, and split = "train" needs neither',
            ),
        ),
        inside=("VOC2012", "VOCdevkit/VOC2012"),
    ),
    "ade20k": DataSet(
        "ade20k",
        (Layout({"train": "training", "val": "validation"}, "images/{}", "annotations/{}"),),
        inside=("ADEChallengeData2016",),
        ignored=(0, IGNORE),
    ),
    "coco_panoptic": DataSet(
        "coco_panoptic",
        (
            *(
                Layout(
                    _OF_2017,
                    images,
                    "annotations/panoptic_{}",
                    segments="annotations/panoptic_{}.json",
                )
                for images in ("{}", "images/{}")
            ),
            Layout(_OF_2017, "{}", "semantic_{}"),  # category ids as grey values
        ),
        ignored=(0, IGNORE),
    ),
    "coco_stuff": DataSet(
        "coco_stuff",
        (
            Layout(_OF_2017, "{}", "stuffthingmaps/{}"),
            Layout(_OF_2017, "images/{}", "annotations/{}"),
            Layout(_OF_2017, "images/{}", "stuffthingmaps/{}"),
        ),
    ),
    "nyu": DataSet(
        "nyu",
        (
            Layout(
                _same("train", "val"),
                "images",
                "segmentation",
                depth="depth",
                names="gt_sets/{}.txt",
                origin="NYU Depth v2 as images: the 795 and 654 frames in images/, their ids of 40 "
                "classes as PNG in segmentation/, and the names of the splits in gt_sets/",
            ),
        ),
        ignored=(0, IGNORE),
    ),
    "mapillary": DataSet(
        "mapillary",
        tuple(
            Layout({"train": "training", "val": "validation"}, "{}/images", labels)
            for labels in ("{}/labels", "{}/v1.2/labels")
        ),
        ignored=(65, IGNORE),
    ),
    "bdd100k": DataSet(
        "cityscapes",
        (
            Layout(_same("train", "val"), "images/10k/{}", "labels/sem_seg/masks/{}"),
            Layout(
                _same("train", "val"), "seg/images/{}", "seg/labels/{}", label_ending="_train_id"
            ),
        ),
        inside=("bdd100k",),
        by_index=True,
    ),
}
