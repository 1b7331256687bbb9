"""What the sections of sources have in common whose images lie in shards, many in a file."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from stillroom.stages.sources.choose import choose
from stillroom.stages.sources.file_source import FileSource
from stillroom.stages.sources.find_images import kind_at, walk
from stillroom.stages.sources.label_ids import ClassNames, LabelSettings
from stillroom.stages.sources.names import Names, natural_order
from stillroom.stages.sources.source_settings import FileSettings
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.stages.sources.listing import Listing


class ShardSettings(LabelSettings):
    """Shards below a folder. Classes and ids are those of `LabelSettings`.

    Attributes:
        root: the folder of the shards, read with its subfolders.
        split: takes the shards alone whose name begins with it and a "-" or "_", or that lie in a
            folder of this name; None takes all.
        label: what a frame's label map is called; None for a source without labels.
    """

    root: Path
    split: str | None = None
    label: str | None = None
    classes: ClassNames = Field(default=(), max_length=255)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.label is None) != (not self.classes):
            raise ValueError("`label` and `classes` go together: what the ids of labels mean")
        return self

    def folders(self) -> tuple[Path, ...]:
        """Return the folder of the shards."""
        return (self.root.expanduser(),)

    def stated(self) -> dict[str, Any]:
        """Return kind, draw, classes and label ids."""
        return FileSettings.stated(self) if self.label is None else super().stated()


def find_shards(
    config: ShardSettings, suffixes: frozenset[str], left_out: str | None = None
) -> list[tuple[str, Path]]:
    """List the shards in natural order of their names: the path below the root, and the file.

    Args:
        left_out: how names of files begin that are none

    Raises:
        ConfigError: the folder is missing or unreadable, or has no such shard.
    """
    (root,) = config.folders()
    if kind_at(root) != "folder":
        raise ConfigError(f"{root} does not exist; point the source at a folder of shards")
    found = [
        name
        for name, _ in walk(root, suffixes, recursive=True)
        if left_out is None or not PurePath(name).name.startswith(left_out)
    ]
    if not found:
        raise ConfigError(f"{root} holds no shard ({' '.join(sorted(suffixes))})")
    wanted = [name for name in found if config.split is None or _is_of(config.split, name)]
    if not wanted:
        raise ConfigError(
            f"{root}: none of its {len(found)} shards is of split {config.split!r}, e.g. "
            f"{min(found)!r}; name another, or leave `split` out"
        )
    names = pa.array(wanted, pa.large_string())
    return [(wanted[at], root / wanted[at]) for at in np.asarray(natural_order(Names(names)))]


def _is_of(split: str, name: str) -> bool:
    *folders, last = name.split("/")
    return split in folders or last.startswith((f"{split}-", f"{split}_"))


def source_of(config: ShardSettings, listing: Listing) -> FileSource:
    """Return the source of the frames that a section asks for."""
    ids = None if config.label is None else config.label_ids()
    return FileSource(choose(listing.ordered(), config), config.stated(), ids)
