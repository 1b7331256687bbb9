"""Files that are either whole or not there: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import CacheUnwritable
from stillroom.storage_specs.files.cautious_reads import LINK, first_link, open_regular

if TYPE_CHECKING:
    from pathlib import Path

STAGING = "manifest/.staging"
"""The folder of files that are not yet put in place."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
ABANDONED_AFTER_SECONDS = 3600
ATTEMPTS = 3
TEMPORARY = re.compile(r"[0-9a-f]{12}\.\d+(-\d*)?\..+")  # random, process; once also its start


def write_whole(root: Path, path: str, content: bytes, *, keep: bool = False) -> bool:
    """Put `content` at `path` under `root` in one step that survives a crash.

    Args:
        keep: leave a file that is already there, and return False

    Raises:
        CacheUnwritable: no space, no permission, or another fault of the disk; nothing is left.
    """
    target = root / path
    try:
        for _ in range(ATTEMPTS - 1):
            # A machine that does not see our lock may take ours for an abandoned one.
            with suppress(FileNotFoundError):
                return _write_once(root, target, content, keep)
        return _write_once(root, target, content, keep)
    except OSError as error:
        raise unwritable(error, target, len(content)) from error


def remove(root: Path, path: str) -> bool:
    """Remove one file durably; False where there was none (CacheUnwritable where it stays)."""
    target = root / path
    try:
        target.unlink()
        _sync_folder(target.parent)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unwritable(error, target, 0) from error
    return True


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, each durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
        _sync_folder(folder.parent)


def sweep(root: Path) -> int:
    """Remove the temporary files of writers that have ended; return their number.

    Files with other names stay. A writer that loses a file to this notices, and writes it again.
    """
    swept = 0
    if first_link(root, [STAGING]) is not None:
        return 0  # those files are not ours
    with suppress(FileNotFoundError, PermissionError):
        for temporary in list((root / STAGING).iterdir()):
            with suppress(OSError):
                if TEMPORARY.fullmatch(temporary.name) and _abandoned(temporary):
                    temporary.unlink()
                    swept += 1
    return swept


def unwritable(error: OSError, path: Path | str, wanted: int) -> CacheUnwritable:
    """Explain a failed write to the user, with the next action."""
    if error.errno in NO_SPACE:
        what = f"no space left (or a quota or size limit reached) for {wanted:,} bytes"
        todo = "free some space"
    elif error.errno in NO_PERMISSION:
        what = "no permission to write"
        todo = "make the folder writable for this user, or point cache.path elsewhere"
    else:
        what = f"cannot write: {error.strerror or error}"
        todo = "look at the disk"
    return CacheUnwritable(
        f"{path}: {what}; {todo} and run the same command again: what is committed is kept"
    )


def _write_once(root: Path, target: Path, content: bytes, keep: bool) -> bool:
    temporary = root / STAGING / f"{secrets.token_hex(6)}.{os.getpid()}.part"
    if first_link(root, [STAGING]) is not None:
        raise OSError(errno.ELOOP, LINK)
    make_folder(temporary.parent)
    make_folder(target.parent)
    try:
        with temporary.open("xb") as file:
            with suppress(OSError):  # held until the file is in place; some disks have no locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            placed = _place(temporary, target, keep)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    _sync_folder(target.parent)
    return placed


def _place(temporary: Path, target: Path, keep: bool) -> bool:
    if not keep:
        temporary.replace(target)
        return True
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError:
        # No hard links here (some network and FAT disks): the check and the rename are two steps.
        if target.exists():
            return False
        temporary.replace(target)
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems do not sync folders; they keep renames by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _abandoned(temporary: Path) -> bool:
    """Return whether no writer locks it; on a disk without locks, whether it is an hour old."""
    descriptor = open_regular(temporary)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(descriptor).st_mtime > ABANDONED_AFTER_SECONDS
    finally:
        os.close(descriptor)
    return True
