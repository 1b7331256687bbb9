"""The files below a folder, found alike on every machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


def walk(folder: Path, suffixes: frozenset[str], *, recursive: bool) -> Iterator[tuple[str, int]]:
    """Yield (path below `folder`, bytes) of every visible file with one of the suffixes.

    Hidden files and folders (a leading dot) are left out; links are followed, a folder that was
    already entered is not entered again. A link that leads nowhere is a file of 0 bytes: who opens
    it finds it missing, and says so.

    Raises:
        ConfigError: a folder cannot be read, or holds a name that is not UTF-8, or a link that
            leads nowhere and has no suffix: it may stand for a whole folder.
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
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.is_dir():
                folders.append((entry.path, relative + "/"))
            elif suffix in suffixes:
                size = _size(entry)
                if size is not None:
                    yield relative, size
            elif recursive and not suffix and _leads_nowhere(entry):
                raise ConfigError(
                    f"{entry.path} is a link that leads nowhere, perhaps to a folder of the "
                    "source that is not there; mend the link, or remove it"
                )
        if recursive:
            # sorted: which of two links to one folder is entered must not depend on the disk
            waiting.extend(sorted(folders, reverse=True))


def _size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a file, 0 of a link that leads nowhere; None of a pipe or a device."""
    if entry.is_file():
        return entry.stat().st_size
    return 0 if _leads_nowhere(entry) else None


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


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
