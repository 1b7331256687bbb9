"""WebDataset shards: tar files whose members of one name are a frame.

A frame can be read at any time and by any thread: the place of every member is looked up once, when
the source is opened, and its bytes are read from there. No package but Python's is needed.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from stillroom.stages.sources.listing import Listing
from stillroom.stages.sources.names import at, text_of
from stillroom.stages.sources.shard_settings import ShardSettings, find_shards, source_of
from stillroom.stages.sources.spelled_names import spelled
from stillroom.storage_specs.errors import ConfigError, FrameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stillroom.stages.sources.file_source import FileSource

SUFFIXES = frozenset({".tar"})
END = bytes(tarfile.BLOCKSIZE)
"""What follows the last member of a tar file that is whole."""

Place = tuple[int, int]  # of a member's bytes in its shard, and how many


class WebDatasetSettings(ShardSettings):
    """Frames in tar files, each of the members `KEY.EXTENSION` with one key.

    Attributes:
        image: the extension of images.
        label: that of label maps, all that follows the first "." of the member's name.
    """

    kind: Literal["webdataset"] = "webdataset"
    image: str = "jpg"


@dataclass(frozen=True)
class Member:
    """A member of a tar file."""

    name: str
    shard: Path
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        """Read it.

        Raises:
            OSError: the shard cannot be read.
            FrameError: the shard ends before it.
        """
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise FrameError(f"{self.name}: {self.shard.name} ends in it; the shard was cut off")
        return data

    def __str__(self) -> str:
        return f"{self.name} in {self.shard}"


@dataclass(frozen=True, eq=False)
class Members:
    """A member of a tar file for the frames of a listing.

    Attributes:
        shards: the tar files, each without its suffix the beginning of its frames' ids.
        extension: of the members.
        pattern: which shard a frame's is in, null where it has none: Int32Array.
        offsets, sizes: of its bytes there: Int64Array.
    """

    shards: tuple[Path, ...]
    extension: str
    pattern: Any
    offsets: Any
    sizes: Any

    def take(self, indices: Any) -> Members:
        """Return those at some indices, none where an index is null."""
        places = (at(indices, each) for each in (self.pattern, self.offsets, self.sizes))
        return Members(self.shards, self.extension, *places)

    def file(self, index: int, frame_id: str) -> Member | None:
        """Return a frame's member; None where it has none."""
        shard = self.pattern[index].as_py()
        if shard is None:
            return None
        (name,) = self.called(index, frame_id)
        offset, size = self.offsets[index].as_py(), self.sizes[index].as_py()
        return Member(name, self.shards[shard], offset, size)

    def called(self, index: int, frame_id: str) -> tuple[str, ...]:
        """Return the path of a frame's member below the folder of its shard."""
        return (f"{frame_id}.{self.extension}",)


def open_webdataset(config: WebDatasetSettings) -> FileSource:
    """List the frames of all shards; one is named by its shard and its key.

    A key whose members lack an image is no frame; without a label, the frame has a bad label.

    Raises:
        ConfigError: no shard is there, one is damaged or compressed, two frames have one name, or
            no frame has an image, or a label where the source has some.
    """
    shards = find_shards(config, SUFFIXES)
    ids, which, images, labels = [], [], [], []
    seen: set[str] = set()
    for number, (name, path) in enumerate(shards):
        for key, members in _frames(path).items():
            seen.update(members)
            if config.image in members:
                ids.append(spelled(f"{name.removesuffix('.tar')}/{key}"))
                which.append(number)
                images.append(members[config.image])
                labels.append(members.get(config.label or ""))
    for extension, found in ((config.image, images), (config.label, labels)):
        if extension is not None and not any(found):
            raise ConfigError(
                f"no frame of {config.root} has a member .{extension}; there are: "
                f"{', '.join(sorted(seen)) or 'none'}; name one as `image` or `label`"
            )
    paths = tuple(path for _, path in shards)
    listing = Listing(
        text_of(ids),
        _members(paths, config.image, which, images),
        None if config.label is None else _members(paths, config.label, which, labels),
    )
    return source_of(config, listing)


def _members(
    shards: tuple[Path, ...], extension: str, which: list[int], places: Sequence[Place | None]
) -> Members:
    missing = np.array([place is None for place in places])
    offset, size = np.array([place or (0, 0) for place in places], np.int64).T
    return Members(
        shards,
        extension,
        pa.array(np.array(which, np.int32), mask=missing),
        pa.array(offset, mask=missing),
        pa.array(size, mask=missing),
    )


def _frames(path: Path) -> dict[str, dict[str, Place]]:
    """Return the members of a shard by key and extension.

    Raises:
        ConfigError: it is no tar file, or is damaged or cut off.
    """
    frames: dict[str, dict[str, Place]] = {}
    try:
        for name, place in _places(path):
            last = PurePosixPath(name).name
            key, _, extension = last.partition(".")
            frames.setdefault(name[: len(name) - len(last)] + key, {})[extension] = place
    except (tarfile.TarError, OSError, ValueError) as fault:
        raise ConfigError(
            f"{path} cannot be read as a tar file: {fault}; it is cut off, damaged or compressed: "
            "fetch it again, or unpack it (gunzip), since frames are read from its middle"
        ) from fault
    return frames


def _places(path: Path) -> Iterator[tuple[str, Place]]:
    """Yield name and place of every visible member that is a file."""
    with tarfile.open(path, "r:") as shard:
        for member in shard:
            hidden = PurePosixPath(member.name).name.startswith(".")
            if member.isreg() and not hidden:
                yield member.name.removeprefix("./"), (member.offset_data, member.size)
        end = shard.offset
    with path.open("rb") as file:
        file.seek(end)
        if file.read(len(END)) != END:
            raise tarfile.ReadError("its end is missing")
