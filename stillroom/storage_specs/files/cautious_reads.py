"""Reading what somebody else may have written: regular files only, of a size that can be.

A cache holds no symbolic links, so that no path inside it leads outside; the cache's own folder may
be reached through one. A pipe in the place of an object would be read for ever, a disk without end.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

METADATA_BYTES = 2**24  # of a zarr.json
PART_BYTES = 2**26  # of a manifest part

LINK = "it is a symbolic link, and a cache holds none"


def open_regular(path: Path | str) -> int:
    """A descriptor to read from; OSError, also where it is a link, a pipe or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, LINK, str(path)) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is no regular file", str(path))


def read_whole(path: Path, limit: int | None) -> bytes:
    """A file's bytes; OSError where it has more than `limit`."""
    with os.fdopen(open_regular(path), "rb") as file:
        check_size(os.fstat(file.fileno()).st_size, limit, str(path))
        return file.read()


def drop_from_memory(path: str) -> None:
    """Have a file read from its disk when it is next read, where the system does that."""
    with suppress(OSError, AttributeError):  # not everywhere
        descriptor = open_regular(path)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def check_size(size: int, limit: int | None, where: str) -> None:
    """Refuse a file of more bytes than `limit` (OSError)."""
    if limit is not None and size > limit:
        why = f"it has {size:,} bytes, which is more than the {limit:,} that it can have"
        raise OSError(errno.EINVAL, why, where)


def json_of(content: bytes) -> Any:
    """Return the document; ValueError where it is none, or nested too deep to be read."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deep") from None


def first_link(root: Path, places: Iterable[str]) -> str | None:
    """Return the first link among these paths under `root` and the folders above them."""
    visited = set()
    for place in places:
        words = place.split("/")
        for depth in range(1, len(words) + 1):
            above = "/".join(words[:depth])
            if above not in visited and os.path.islink(root / above):
                return above
            visited.add(above)
    return None
