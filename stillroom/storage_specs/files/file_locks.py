"""One writer at a time, where the disk has locks: each locks a byte of a file that is there.

The lock belongs to the open file, so that it excludes threads as well as processes, and ends with
them; no lock file is left behind. Whoever cannot lock goes on: all that is written is written
whole, and what two writers of different bytes could still mix up is found by its sha256.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_SECONDS = 60.0  # for a holder that may have been suspended
POLL_SECONDS = 0.02
TAKEN = (errno.EAGAIN, errno.EACCES)


@contextmanager
def locked(path: Path, place: int) -> Iterator[None]:
    """Hold the lock on the byte at `place` of a file, which need not be that long."""
    descriptor = -1
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        _take(descriptor, place)
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _take(descriptor: int, place: int) -> None:
    """Wait for the lock, but not for ever; OSError where this disk has none."""
    command = getattr(fcntl, "F_OFD_SETLK", None)
    if command is None:
        return  # not Linux
    # struct flock: type, whence, start, length, process (0 for locks of open files)
    request = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.fcntl(descriptor, command, request)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            time.sleep(POLL_SECONDS)
        else:
            return
