"""Files that are either whole or not there: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import socket
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from stillroom.storage_specs.errors import CacheUnwritable
from stillroom.storage_specs.files.cautious_reads import LINK, first_link
from stillroom.storage_specs.layout import STAGING

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
ABANDONED_AFTER_SECONDS = 3600
ATTEMPTS = 3
TEMPORARY = re.compile(r"[0-9a-f]{12}\.\d+(-\d*)?\..+")  # host, process and its start, random


def write_whole(root: Path, path: str, content: bytes, *, keep: bool = False) -> bool:
    """Put `content` at `path` under `root` in one step that survives a crash.

    keep: leave a file that is already there, and return False

    Raises:
        CacheUnwritable: no space, no permission, or another fault of the disk; nothing is left.
    """
    target = root / path
    try:
        for _ in range(ATTEMPTS - 1):
            # A machine whose clock is an hour ahead may take ours for an abandoned one.
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
    """Remove temporary files that no living writer owns; their number.

    One of this machine is abandoned when its process has ended, whatever the clock says; one of
    another machine after an hour. Where clocks disagree, its writer notices and writes it again.
    What is not named like one is left alone.
    """
    swept = 0
    if first_link(root, [STAGING]) is not None:
        return 0  # those files are not ours
    with suppress(FileNotFoundError, PermissionError):
        for temporary in list((root / STAGING).iterdir()):
            if TEMPORARY.fullmatch(temporary.name) and _abandoned(temporary):
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


def _write_once(root: Path, target: Path, content: bytes, keep: bool) -> bool:
    process = os.getpid()
    name = f"{host()}.{process}-{_started(process) or ''}.{secrets.token_hex(8)}"
    temporary = root / STAGING / name
    if first_link(root, [STAGING]) is not None:
        raise OSError(errno.ELOOP, LINK)
    make_folder(temporary.parent)
    make_folder(target.parent)
    try:
        _write_synced(temporary, content)
        placed = _place(temporary, target, keep)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    _sync_folder(target.parent)
    return placed


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
    process, _, started = rest.partition(".")[0].partition("-")
    if owner == host():
        now = _started(int(process))
        # A number is used again: in a container that was restarted, every time.
        return now is None or bool(started and now and started != now)
    with suppress(OSError):
        return time.time() - temporary.stat().st_mtime > ABANDONED_AFTER_SECONDS
    return False


def _started(process: int) -> str | None:
    """When a process of this machine was started, in ticks since its boot; None if it has ended.

    Empty where it lives but that cannot be known.
    """
    with suppress(OSError):
        said = Path(f"/proc/{process}/stat").read_text(encoding="utf8", errors="replace")
        state, *fields = said.rpartition(")")[2].split()
        return None if state == "Z" else fields[18]
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
