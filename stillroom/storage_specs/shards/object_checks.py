"""Hold the shard objects that a set reads against what its manifest says of them.

Every chunk carries a checksum, so that a damaged one is never decoded. That does not tell whether
a whole object lies where it belongs: one that was copied to another's place is sound, and holds
other frames. Its size is compared whenever it is opened, which costs nothing, and where a set is
watched its sha256 as well, for a bounded share of the time.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import CacheCorrupt

if TYPE_CHECKING:
    from stillroom.storage_specs.files.ranged_file import RangedFile
    from stillroom.storage_specs.manifest import ObjectEntry

SHARE = 0.01  # of the time since watching began
AT_ONCE_SECONDS = 2.0  # besides: about 2 GB, so that most caches are checked before they are read
PIECE = 1 << 22


def check_size(found: int, entry: ObjectEntry, where: str) -> None:
    """Refuse an object that is of another size than the one that was committed.

    Raises:
        CacheCorrupt: with both sizes.
    """
    if found != entry.bytes:
        raise CacheCorrupt(
            f"{where} is damaged: it holds {found:,} bytes, and {entry.bytes:,} were committed, so "
            "it is cut short or another object; run `stillroom cache verify --repair`"
        )


class Watch:
    """Compares objects with their sha256, one whenever there is time for it; threads may share it.

    Objects that there was no time for at first are compared later, between reads.
    """

    def __init__(self, share: float = SHARE, at_once: float = AT_ONCE_SECONDS) -> None:
        self._share = share
        self._at_once = at_once
        self._began = time.monotonic()
        self._spent = 0.0
        self._waiting: deque[tuple[RangedFile, ObjectEntry, str]] = deque()

    def add(self, file: RangedFile, entry: ObjectEntry, where: str) -> None:
        """Have an object compared, now if there is time.

        Raises:
            CacheCorrupt: it, or one that waited before it, is another object.
        """
        self._waiting.append((file, entry, where))
        self.go_on()

    def go_on(self) -> None:
        """Compare what waits, as far as there is time.

        Raises:
            CacheCorrupt: one is another object.
        """
        while self._waiting and self._spent < self._allowed():
            try:
                file, entry, where = self._waiting.popleft()
            except IndexError:  # another thread was quicker
                return
            began = time.monotonic()
            found = _sha256(file, entry.bytes)
            self._spent += time.monotonic() - began
            if found != entry.sha256:
                raise CacheCorrupt(
                    f"{where} is damaged: it holds other bytes (sha256 {found[:12]}...) than were "
                    f"committed ({entry.sha256[:12]}...), so it may be another object; run "
                    "`stillroom cache verify --repair`"
                )

    def _allowed(self) -> float:
        return self._at_once + self._share * (time.monotonic() - self._began)


def _sha256(file: RangedFile, size: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, size, PIECE):
        digest.update(file.read(start, min(PIECE, size - start)).data)
    return digest.hexdigest()
