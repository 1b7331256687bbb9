"""Which files are in a folder: found, named, ordered and fingerprinted the same everywhere."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.stages.sources.images_on_disk import IMAGE_SUFFIXES
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


NUMBERS = re.compile(r"([0-9]+)")


# A million frames are nothing unusual: paths stay text, which takes a fifth of a Path's memory.
@dataclass(frozen=True, slots=True)
class FoundFile:
    """An image file below a folder.

    Attributes:
        path: where it is, for reading.
        relative: its path below the folder with "/" between parts, for naming.
        size: bytes.
    """

    path: str
    relative: str
    size: int

    @property
    def stem(self) -> str:
        """The relative path without the file's suffix."""
        return self.relative[: len(self.relative) - len(_suffix(self.path))]


@dataclass(frozen=True, slots=True)
class ListedFrame:
    """A frame by its files. `label_size` is None where the label file is missing."""

    frame_id: str
    image: str
    size: int
    label: str | None = None
    label_size: int | None = None
    clip: str | None = None
    time: int | None = None


def find_images(folder: Path, *, recursive: bool) -> list[FoundFile]:
    """List the image files of a folder, told by suffix, folder by folder.

    Hidden files and folders (a leading dot) are left out; links are followed, a folder that was
    already entered is not entered again.

    Raises:
        ConfigError: no such folder, a folder that cannot be read, a name that is not UTF-8, or
            no image in it.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"{folder} {what}; point the source at a folder of images")
    found = [
        FoundFile(entry.path, relative, entry.stat().st_size)
        for entry, relative in _walk(folder, recursive)
        if _suffix(entry.name).lower() in IMAGE_SUFFIXES
    ]
    if not found:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise ConfigError(f"{folder} holds no image ({suffixes})")
    return found


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key under which frame 2 precedes frame 10; equal keys mean equal texts."""
    parts = [
        (0, int(part), "") if place % 2 else (1, 0, part)
        for place, part in enumerate(NUMBERS.split(text))
        if part
    ]
    return parts, text


def listing_sha256(frames: Iterable[ListedFrame]) -> str:
    """Fingerprint of names and file sizes, independent of folder and of order."""
    digest = hashlib.sha256()
    for frame in sorted(frames, key=lambda frame: frame.frame_id):
        row = f"[{encode_basestring_ascii(frame.frame_id)}, {frame.size}"
        if frame.label is not None:
            row += f", {-1 if frame.label_size is None else frame.label_size}"
        digest.update(f"{row}]\n".encode())
    return digest.hexdigest()


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1]


def _walk(folder: Path, recursive: bool) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield (entry, path below `folder`) of every visible file."""
    entered: set[str] = set()
    waiting = [(str(folder), "")]
    while waiting:
        current, prefix = waiting.pop()
        real = str(Path(current).resolve())
        if real in entered:
            continue
        entered.add(real)
        # sorted: which of two links to one folder is entered must not depend on the disk
        folders = []
        for entry in _scan(current):
            relative = prefix + entry.name
            if entry.is_dir():
                folders.append((entry.path, relative + "/"))
            elif entry.is_file():
                yield entry, relative
        if recursive:
            waiting.extend(reversed(folders))


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as fault:
        raise ConfigError(
            f"{folder} cannot be read: {fault.strerror or fault}; "
            "give this user permission, or take it out of the source"
        ) from fault
    for entry in visible:
        if not entry.name.isprintable():  # undecodable bytes arrive as lone surrogates
            raise ConfigError(
                f"{folder} holds the name {entry.name!a}, which is not printable UTF-8; rename it"
            )
    return sorted(visible, key=lambda entry: entry.name)
