"""Public data sets by their names: a kind of source for each row of `DATA_SETS`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import create_model, field_validator, model_validator

from stillroom.stages.class_lists import CLASS_LISTS
from stillroom.stages.sources.choose import choose, of_list
from stillroom.stages.sources.data_set_table import DATA_SETS
from stillroom.stages.sources.depth_files import DEPTH_SUFFIXES, DepthFiles
from stillroom.stages.sources.file_source import FileSource
from stillroom.stages.sources.find_images import find_images, kind_at
from stillroom.stages.sources.label_files import read_label
from stillroom.stages.sources.label_ids import LabelIds
from stillroom.stages.sources.listing import Listing
from stillroom.stages.sources.panoptic import PanopticLabels
from stillroom.stages.sources.source_settings import FileSettings
from stillroom.storage_specs.artifacts import DEPTH
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.stages.sources.data_set_table import DataSet, Layout

READER = DepthFiles(unit=None, near=0.1, far=100.0)


class DataSetSettings(FileSettings):
    """One split of a public data set.

    Attributes:
        root: the folder of the data set, or one above it that its archives make.
        split: train, val, or another that the data set has.
        depth: read its depth maps too.
    """

    root: Path
    split: str = "train"
    depth: bool = False

    def data_set(self) -> DataSet:
        """Return the row of the table."""
        return DATA_SETS[self.kind]

    def layout(self) -> tuple[Layout, Path]:
        """Return how the split lies, and the folder that this starts from."""
        return self.data_set().find(self.root.expanduser(), self.split)

    def folders(self) -> tuple[Path, ...]:
        """Return the folders of images, of labels and of depth maps."""
        layout, root = self.layout()
        paths = layout.paths(self.split)
        depth = (root / layout.depth,) if self.depth else ()
        return (root / paths["images"], root / paths["labels"], *depth)

    def further_targets(self) -> tuple[str, ...]:
        """Return depth where it is asked for."""
        return (DEPTH,) if self.depth else ()

    def stated(self) -> dict[str, Any]:
        """Return kind, draw, split, classes and the class of each id."""
        index_of = self.data_set().index_of()
        return {
            **super().stated(),
            "split": self.split,
            "classes": list(CLASS_LISTS[self.data_set().classes]),
            "ids": {str(raw): index_of[raw] for raw in sorted(index_of)},
            **({"targets": {DEPTH: READER.stated()}} if self.depth else {}),
        }

    @model_validator(mode="after")
    def _depth_is_there(self) -> Self:
        if self.depth and not any(layout.depth for layout in self.data_set().layouts):
            raise ValueError(f"{self.kind} has no depth maps; leave out depth")
        return self

    @field_validator("split")
    @classmethod
    def _split_is_known(cls, split: str) -> str:
        splits = DATA_SETS[cls.model_fields["kind"].default].splits
        if split not in splits:
            raise ValueError(f"no split {split!r}; known: {', '.join(splits)}")
        return split


def _settings(kind: str) -> type[DataSetSettings]:
    literal = Literal[kind]  # type: ignore[valid-type]  # each kind is a row of the table
    return create_model(f"{kind}_settings", __base__=DataSetSettings, kind=(literal, kind))


def open_data_set(config: DataSetSettings) -> FileSource:
    """List one split; a frame is named by its path below the split's folder of images.

    Where a split is a list of names, `list` stands in for it.

    Raises:
        ConfigError: a folder or file of the data set is missing, unreadable or empty, no frame
            has a label, or not all that is chosen is there.
    """
    layout, root = config.layout()
    place = _places(config, layout, root)
    images = find_images(place["images"], recursive=True).by_stem(layout.image_ending)
    labels = find_images(place["labels"], recursive=True).by_stem(layout.label_ending)
    files = images.labels_from(labels, "image", "label")
    depths = {}
    if config.depth:
        maps = find_images(root / layout.depth, recursive=True, suffixes=DEPTH_SUFFIXES)
        depths[DEPTH] = images.labels_from(maps.by_stem(), "image", "depth map")
    listing = Listing(images.ids, images.files, files, targets=depths).ordered()
    if "names" in place:
        listing = of_list(listing, place["names"])
    data_set = config.data_set()
    ids = LabelIds(CLASS_LISTS[data_set.classes], data_set.index_of(), data_set.ignore_unlisted)
    read = PanopticLabels(place["segments"]) if layout.segments else read_label
    readers = dict.fromkeys(depths, READER)
    return FileSource(choose(listing, config), config.stated(), ids, read=read, targets=readers)


def _places(config: DataSetSettings, layout: Layout, root: Path) -> dict[str, Path]:
    """Return where everything that the split needs is."""
    paths = layout.paths(config.split)
    if config.list is not None:
        paths.pop("names", None)
    for path in paths.values():
        if kind_at(root / path) is None:
            raise ConfigError(
                f"{root / path} does not exist; split {config.split!r} of {config.kind} is "
                f"{', '.join(paths.values())} below `root` (docs/datasets.md)"
                + (f": {layout.origin}" if layout.origin else "")
            )
    return {name: root / path for name, path in paths.items()}


SETTINGS: dict[str, type[DataSetSettings]] = {kind: _settings(kind) for kind in DATA_SETS}
