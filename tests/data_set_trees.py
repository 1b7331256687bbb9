"""Tiny data: a tree of each public data set, laid out by hand as its archives are, and shards."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

FRAMES = {"train": ("1_000003_000019", "2_000000_000019", "10_000001_000019"), "val": ("4_1_7",)}
SIZE = (64, 96)  # height, width
COLOURS = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [224, 224, 192] * 252


@dataclass(frozen=True)
class Tree:
    """How one data set keeps its frames.

    Attributes:
        image, label: paths of a frame's files: {split} is the split, {word} its word of `words`,
            {name} the frame.
        classes: how many.
        ids: some of the values in label files -> the class indices that they mean.
        names: path of a file that lists a split's frames.
        palette: whether label files have a palette of colours.
    """

    image: str
    label: str
    classes: int
    ids: dict[int, int]
    names: str = ""
    words: dict[str, str] = field(default_factory=dict)
    palette: bool = False
    segments: str = ""


ADE = {"train": "training", "val": "validation"}
COCO = {"train": "train2017", "val": "val2017"}
TREES: dict[str, Tree] = {
    "cityscapes": Tree(
        "leftImg8bit/{split}/ulm/ulm_{name}_leftImg8bit.png",
        "gtFine/{split}/ulm/ulm_{name}_gtFine_labelIds.png",
        19,
        {7: 0, 8: 1, 11: 2, 24: 11, 26: 13, 33: 18, 0: 255, 9: 255, 29: 255},
    ),
    "voc": Tree(
        "JPEGImages/{name}.jpg",
        "SegmentationClass/{name}.png",
        21,
        {0: 0, 1: 1, 7: 7, 15: 15, 20: 20, 255: 255},
        names="ImageSets/Segmentation/{split}.txt",
        palette=True,
    ),
    "pascal_context": Tree(
        "JPEGImages/{name}.jpg",
        "SegmentationClassContext/{name}.png",
        59,
        {0: 255, 1: 0, 15: 14, 59: 58},
        names="ImageSets/SegmentationContext/{split}.txt",
    ),
    "pascal_context_60": Tree(
        "JPEGImages/{name}.jpg",
        "SegmentationClassContext/{name}.png",
        60,
        {0: 0, 1: 1, 15: 15, 59: 59},
        names="ImageSets/SegmentationContext/{split}.txt",
    ),
    "ade20k": Tree(
        "images/{word}/{name}.jpg",
        "annotations/{word}/{name}.png",
        150,
        {0: 255, 1: 0, 13: 12, 150: 149},
        words=ADE,
    ),
    "coco_stuff": Tree(
        "{word}/{name}.jpg",
        "stuffthingmaps/{word}/{name}.png",
        171,
        {0: 0, 12: 11, 89: 79, 91: 80, 181: 170, 255: 255},
        words=COCO,
    ),
    "coco_panoptic": Tree(
        "{word}/{name}.jpg",
        "annotations/panoptic_{word}/{name}.png",
        133,
        {0: 255, 1: 0, 3: 2, 90: 79, 92: 80, 184: 116, 200: 132},
        words=COCO,
        segments="annotations/panoptic_{word}.json",
    ),
    "nyu": Tree(
        "images/{name}.jpg",
        "segmentation/{name}.png",
        40,
        {0: 255, 1: 0, 31: 30, 40: 39},
        names="gt_sets/{split}.txt",
    ),
    "mapillary": Tree(
        "{word}/images/{name}.jpg",
        "{word}/labels/{name}.png",
        65,
        {0: 0, 13: 13, 55: 55, 64: 64, 65: 255},
        words=ADE,
        palette=True,
    ),
    "bdd100k": Tree(
        "images/10k/{split}/{name}.jpg",
        "labels/sem_seg/masks/{split}/{name}.png",
        19,
        {0: 0, 13: 13, 18: 18, 255: 255},
    ),
}
OTHERS: dict[str, Tree] = {
    "camvid": Tree(
        "{split}/{name}.png", "{split}annot/{name}.png", 11, {0: 0, 4: 4, 10: 10, 11: 255}
    ),
    "cityscapes_sequence": Tree(
        "leftImg8bit_sequence/{split}/ulm/ulm_{name}_leftImg8bit.png",
        "gtFine/{split}/ulm/ulm_{name}_gtFine_labelIds.png",
        19,
        TREES["cityscapes"].ids,
    ),
    "image_mask": Tree(
        "{split}/images/{name}.jpg", "{split}/masks/{name}.png", 5, {0: 0, 3: 3, 4: 4, 255: 255}
    ),
}
"""Kinds that are no rows of the table of public data sets, in the same splits."""


def plant(kind: str, root: Path) -> Tree:
    """Write the tree of a data set below a folder."""
    tree = (TREES | OTHERS)[kind]
    for split, names in FRAMES.items():
        word = tree.words.get(split, split)
        annotations = []
        for name in names:
            image, label = (
                root / each.format(split=split, word=word, name=name)
                for each in (tree.image, tree.label)
            )
            noise = np.random.default_rng(len(name)).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            _save(noise, image)
            ids = ids_of(tree)
            if tree.segments:
                annotations.append(_save_segments(ids, label))
            else:
                _save(ids, label, palette=tree.palette)
        if tree.names:
            listed = root / tree.names.format(split=split)
            listed.parent.mkdir(parents=True, exist_ok=True)
            listed.write_text("".join(f"{name}\n" for name in names))
        if tree.segments:
            document = {"info": {}, "images": [], "annotations": annotations, "categories": []}
            (root / tree.segments.format(word=word)).write_text(json.dumps(document))
    return tree


def pack(kind: str, root: Path) -> dict[str, object]:
    """Write frames of three classes into shards of a kind; return the keys of its section."""
    root.mkdir()
    mask = np.tile(np.repeat(np.arange(3, dtype=np.uint8), SIZE[1] // 3), (SIZE[0], 1))
    image, label = (_encoded(np.stack([mask * 80] * 3, -1)), _encoded(mask))
    for split, names in FRAMES.items():
        if kind == "webdataset":
            with tarfile.open(root / f"{split}-000.tar", "w") as shard:
                for name in names:
                    for extension, data in (("png", image), ("seg.png", label)):
                        member = tarfile.TarInfo(f"{name}.{extension}")
                        member.size = len(data)
                        shard.addfile(member, io.BytesIO(data))
        else:
            columns = {"image": [{"bytes": image}], "label": [{"bytes": label}]}
            rows = pa.table({name: cells * len(names) for name, cells in columns.items()})
            pq.write_table(rows, root / f"{split}-00000-of-00001.parquet")
    named = {"image": "png", "label": "seg.png"} if kind == "webdataset" else {"label": "label"}
    return {"kind": kind, "root": str(root), "classes": 3, **named}


def _encoded(values: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(values).save(data, "PNG")
    return data.getvalue()


def ids_of(tree: Tree) -> np.ndarray:
    """The values that every label file of a tree means: columns of its ids, (H, W) uint8."""
    ids = np.array(list(tree.ids), np.uint8)
    return np.tile(np.repeat(ids, -(-SIZE[1] // len(ids)))[: SIZE[1]], (SIZE[0], 1))


def expected(tree: Tree) -> np.ndarray:
    """The class indices of every label of a tree: (H, W) uint8."""
    ids = ids_of(tree)
    means = np.zeros(256, np.uint8)
    means[list(tree.ids)] = list(tree.ids.values())
    return means[ids]


def _save(values: np.ndarray, path: Path, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette(COLOURS)
    image.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def _save_segments(categories: np.ndarray, path: Path) -> dict[str, object]:
    """Write the segments of categories as an RGB image; return their annotation."""
    present = [int(each) for each in np.unique(categories) if each]
    segment_of = {category: 70_000 * place + 300 for place, category in enumerate(present)}
    ids = np.zeros(categories.shape, np.int64)
    for category, segment in segment_of.items():
        ids[categories == category] = segment
    _save(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8), path)
    rows = [{"id": segment, "category_id": each} for each, segment in segment_of.items()]
    return {"file_name": path.name, "image_id": 1, "segments_info": rows}
