"""The files below a folder, found alike on every machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


def walk(folder: Path, *, recursive: bool) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield (entry, path below `folder`) of every visible file.

    Hidden files and folders (a leading dot) are left out; links are followed, a folder that was
    already entered is not entered again.

    Raises:
        ConfigError: a folder cannot be read, or holds a name that is not UTF-8.
    """
    entered: set[str] = set()
    waiting = [(str(folder), "")]
    while waiting:
        current, prefix = waiting.pop()
        real = str(Path(current).resolve())
        if real in entered:
            continue
        entered.add(real)
        folders = []
        for entry in _scan(current):
            relative = prefix + entry.name
            if entry.is_dir():
                folders.append((entry.path, relative + "/"))
            elif entry.is_file():
                yield entry, relative
        if recursive:
            # sorted: which of two links to one folder is entered must not depend on the disk
            waiting.extend(sorted(folders, reverse=True))


def _scan(folder: str) -> Iterator[os.DirEntry[str]]:
    """The visible entries of a folder, in the disk's order."""
    try:
        with os.scandir(folder) as entries:
            while (entry := next(entries, None)) is not None:
                if entry.name.startswith("."):
                    continue
                if not entry.name.isprintable():  # undecodable bytes arrive as lone surrogates
                    raise ConfigError(
                        f"{folder} holds the name {entry.name!a}, which is not printable UTF-8; "
                        "rename it"
                    )
                yield entry
    except OSError as fault:
        raise ConfigError(
            f"{folder} cannot be read: {fault.strerror or fault}; "
            "give this user permission, or take it out of the source"
        ) from fault
