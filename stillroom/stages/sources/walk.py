"""The files below a folder, found alike on every machine."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


def walk(folder: Path, suffixes: frozenset[str], *, recursive: bool) -> Iterator[tuple[str, int]]:
    """Yield (path below `folder`, bytes) of every visible file with one of the suffixes.

    Hidden files and folders (a leading dot) are left out; links are followed, a folder that was
    already entered is not entered again. A link that leads nowhere is a file of 0 bytes: who opens
    it finds it missing, and says so.

    Raises:
        ConfigError: a folder or what is in it cannot be read, or a folder holds a name that is not
            UTF-8, or a link that leads nowhere and has no suffix: it may stand for a whole folder.
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
            what = _look(entry, wanted=suffix in suffixes)
            if what == "folder":
                folders.append((entry.path, relative + "/"))
            elif isinstance(what, int):
                yield relative, what
            elif what == "nowhere" and recursive and not suffix:
                raise ConfigError(
                    f"{entry.path} is a link that leads nowhere, perhaps to a folder of the "
                    "source that is not there; mend the link, or remove it"
                )
        if recursive:
            # sorted: which of two links to one folder is entered must not depend on the disk
            waiting.extend(sorted(folders, reverse=True))


def kind_at(path: Path) -> Literal["folder", "file", "other"] | None:
    """What is at a path, links followed: "other" is a pipe or a device, None is nothing.

    Raises:
        ConfigError: it cannot be told: a folder above it is closed to this user, say.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        raise _unreadable(str(path), fault) from fault
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"


def _look(entry: os.DirEntry[str], *, wanted: bool) -> int | Literal["folder", "nowhere", "other"]:
    """What an entry is: the bytes of a wanted file (0 of one that is not there), or another thing.

    Only of links and of wanted files is more asked than the disk tells with their names.
    """
    try:
        if entry.is_dir():
            return "folder"
        if wanted and entry.is_file():
            return entry.stat().st_size
        nowhere = entry.is_symlink() and kind_at(Path(entry.path)) is None
    except FileNotFoundError:  # removed since its name was read
        nowhere = True
    except OSError as fault:
        raise _unreadable(entry.path, fault) from fault
    if nowhere:
        return 0 if wanted else "nowhere"
    return "other"


def _unreadable(path: str, fault: OSError) -> ConfigError:
    remedy = "mend the link" if fault.errno == errno.ELOOP else "give this user permission"
    return ConfigError(
        f"{path} cannot be read: {fault.strerror or fault}; {remedy}, or take it out of the source"
    )


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
        raise _unreadable(folder, fault) from fault
