"""Tell a data set by the way its files lie."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.stages.sources.data_set_table import DATA_SETS, DataSet, Layout
from stillroom.stages.sources.find_images import kind_at
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stillroom.stages.sources.source_settings import FileSettings

LOG = logging.getLogger(__name__)

_SPLITS = {split: split for split in ("train", "val", "test")}
KNOWN: dict[str, DataSet] = {
    **DATA_SETS,
    "cityscapes_sequence": DataSet(
        "cityscapes", (Layout(_SPLITS, "leftImg8bit_sequence/{}", "gtFine/{}"),)
    ),
    "camvid": DataSet("camvid", (Layout(_SPLITS, "{}", "{}annot"),)),
}
"""The kinds that are recognised; of two that fit, the first."""

_COMMON = ("{}", "images", "seg")  # names of folders that say nothing of a data set
_ABOVE = 3  # folders above a source's that may be a data set's


def recognise(folder: Path) -> str | None:
    """Return the kind of source whose layout a folder has, None if it is no known data set's.

    It is one where all of any split is there: its images, its labels and what tells of them.

    Raises:
        ConfigError: a folder in it is closed to this user.
    """
    for kind, data_set in KNOWN.items():
        for split in data_set.splits:
            layout, root = data_set.find(folder, split)
            if not layout.missing(root, split):
                return kind
    return None


@dataclass(frozen=True)
class Part:
    """What a folder that is no whole data set is of one.

    Attributes:
        kind: of source
        whole: the data set's folder
        role: "images" or "labels"
        missing: what is not there of a split, as "gtFine/train"
    """

    kind: str
    whole: Path
    role: str
    missing: tuple[str, ...]

    def __str__(self) -> str:
        lacks = f", but {', '.join(self.missing)} is not there" if self.missing else ""
        return f"{self.whole} has the layout of {self.kind}{lacks}"


def part_of(folder: Path) -> Part | None:
    """Return the data set of whose images or labels a folder is a part, None if it is of none.

    A layout with something missing counts where its images lie in a folder of a name of its own.
    """
    folder = folder.absolute()
    for above in (folder, *folder.parents[:_ABOVE]):
        with suppress(ConfigError):  # of other folders, which nobody has asked for
            found = [part for kind in KNOWN for part in _parts(folder, above, kind)]
            if found:
                return min(found, key=lambda part: len(part.missing))
    return None


def _parts(folder: Path, above: Path, kind: str) -> Iterator[Part]:
    for split in KNOWN[kind].splits:
        layout, root = KNOWN[kind].find(above, split)
        paths = layout.paths(split)
        missing = tuple(path for path in paths.values() if kind_at(root / path) is None)
        if missing and layout.images.partition("/")[0] in _COMMON:
            continue
        for role in ("images", "labels"):
            there = root / paths[role]
            inside = folder.is_relative_to(there) or there.is_relative_to(folder)
            if inside and paths[role] not in missing:
                yield Part(kind, above, role, missing)


def warn_of_splits(folder: Path, config: FileSettings) -> None:
    """Warn of a folder of which the frames of several splits of a data set would be taken."""
    if config.list is None:
        with suppress(ConfigError):  # of other folders, which the source does not need
            _warn(folder, folder.absolute())


def _warn(given: Path, folder: Path) -> None:
    for above in (folder, *folder.parents[:_ABOVE]):
        if (kind := recognise(above)) is not None:
            splits = list(_splits_in(folder, KNOWN[kind], above))
            if len(splits) > 1:
                LOG.warning(
                    "%s is of the data set %s and holds the frames of its splits %s, so that those "
                    'to validate on are learned from; take kind = "%s" with a `split`, or a `list` '
                    "of frames (docs/datasets.md)",
                    given,
                    kind,
                    ", ".join(splits),
                    kind,
                )
            return


def _splits_in(folder: Path, data_set: DataSet, above: Path) -> Iterator[str]:
    """Yield the splits whose frames lie below a folder, or in it together with others."""
    for split in data_set.splits:
        layout, root = data_set.find(above, split)
        images = root / layout.paths(split)["images"]
        shared = bool(layout.names) and folder.is_relative_to(images)
        if not layout.missing(root, split) and (shared or images.is_relative_to(folder)):
            yield split
