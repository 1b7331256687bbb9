"""Files that are either whole or not there: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import socket
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from stillroom.storage_specs.errors import CacheUnwritable
from stillroom.storage_specs.layout import STAGING

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
ABANDONED_AFTER_SECONDS = 3600


def write_whole(root: Path, path: str, content: bytes, *, keep: bool = False) -> bool:
    """Put `content` at `path` under `root` in one step that survives a crash.

    keep: leave a file that is already there, and return False

    Raises:
        CacheUnwritable: no space, no permission, or another fault of the disk; nothing is left.
    """
    target = root / path
    staging = root / STAGING
    temporary = staging / f"{host()}.{os.getpid()}.{secrets.token_hex(8)}"
    try:
        make_folder(staging)
        make_folder(target.parent)
        try:
            _write_synced(temporary, content)
            placed = _place(temporary, target, keep)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        _sync_folder(target.parent)
    except OSError as error:
        raise unwritable(error, target, len(content)) from error
    return placed


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
    """Remove temporary files that no living writer owns; their number.

    One is abandoned when its process on this machine has ended, or after an hour.
    """
    swept = 0
    with suppress(FileNotFoundError, PermissionError):
        for temporary in list((root / STAGING).iterdir()):
            if _abandoned(temporary):
                with suppress(OSError):
                    temporary.unlink()
                    swept += 1
    return swept


def unwritable(error: OSError, path: Path | str, wanted: int) -> CacheUnwritable:
    """What a failed write means to the user, and what to do."""
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


@cache
def host() -> str:
    """A short name for this machine's running system and process numbering.

    Two containers may share a hostname and a disk, yet not their process numbers.
    """
    facts = [socket.gethostname()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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
    owner, _, rest = temporary.name.partition(".")
    process = rest.partition(".")[0]
    if owner == host() and process.isdigit() and not _alive(int(process)):
        return True
    with suppress(OSError):
        return time.time() - temporary.stat().st_mtime > ABANDONED_AFTER_SECONDS
    return False


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
