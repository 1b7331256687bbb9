"""Tell a file that is bad from one that cannot be read now.

The first is a property of the frame and is committed as its row's reason. The second may be mended
at any time (permissions, a disk): committed, it would outlive the fault.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import FrameError, SourceUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.sources.encoded_file import EncodedFile

OF_THE_FILE = frozenset({errno.ENOENT, errno.ELOOP, errno.EISDIR})
_PIECE = 1 << 20  # bytes


def read_fault(path: EncodedFile, fault: OSError) -> FrameError | SourceUnavailable:
    """Return what to raise where a file cannot be read."""
    if fault.errno == errno.ENOENT:
        return FrameError(f"{path.name}: the file is missing")
    reason = fault.strerror or type(fault).__name__
    if fault.errno in OF_THE_FILE:
        return FrameError(f"{path.name}: cannot be read: {reason}")
    return SourceUnavailable(
        f"{path} cannot be read now: {reason}\n  expected a file that opens, whatever it holds; "
        "mend that (its permissions, the disk, the number of open files), then run the same "
        "command again: what is committed stays, and the rest goes on"
    )


def read_through(path: Path) -> None:
    """Read a file to its end and keep nothing, to tell a damaged file from a failing disk.

    Raises:
        FrameError: there is no such file.
        SourceUnavailable: it cannot be read now.
    """
    try:
        with path.open("rb", buffering=0) as file:
            while file.read(_PIECE):
                pass
    except OSError as fault:
        raise read_fault(path, fault) from fault
