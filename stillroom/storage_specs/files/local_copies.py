"""Whole shard objects of remote caches, kept in a folder of this machine up to a number of bytes.

A copy's name is its sha256, which was checked when it was put there: it cannot be out of date,
and caches share it. Nothing here fails a read: whatever goes wrong, the answer is "no copy".
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.manifest import entry_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stillroom.storage_specs.manifest import ObjectEntry

FOLDER = "STILLROOM_SHARD_CACHE"
GIGABYTES = "STILLROOM_SHARD_CACHE_GB"
USUAL_GIGABYTES = 20.0
IN_USE_SECONDS = 120.0
"""A copy used this lately stays. Where all are, the rest is read frame by frame from the store:
to throw out for every frame a whole shard that the next one needs would be far slower."""
REST_SECONDS = 30.0  # without trying again, after the folder was full or failed
ABANDONED_SECONDS = 3600.0


class LocalCopies:
    """The folder. Threads and processes may share it.

    Args:
        limit: bytes of all copies together
        in_use_seconds: how long after its last use a copy is safe from being evicted
    """

    def __init__(self, folder: Path, limit: int, in_use_seconds: float = IN_USE_SECONDS) -> None:
        self.folder = folder
        self.limit = limit
        self.in_use_seconds = in_use_seconds
        self._rest_until = 0.0

    @classmethod
    def from_environment(cls) -> LocalCopies | None:
        """Read STILLROOM_SHARD_CACHE and STILLROOM_SHARD_CACHE_GB; None where they are not set.

        Raises:
            ConfigError: the number of gigabytes is none.
        """
        folder = os.environ.get(FOLDER)
        if not folder:
            return None
        given = os.environ.get(GIGABYTES) or str(USUAL_GIGABYTES)
        try:
            limit = int(float(given) * 1e9)
        except (ValueError, OverflowError) as error:
            raise ConfigError(f"{GIGABYTES}={given}: expected a number of gigabytes") from error
        return cls(Path(folder).expanduser(), limit)

    def path(self, entry: ObjectEntry) -> Path:
        """Return the path of an object's copy, if there is one."""
        return self.folder / entry.sha256

    def hold(self, entry: ObjectEntry, load: Callable[[], bytes]) -> bool:
        """Have a copy of an object and mark it as used; whether there is one now.

        Args:
            load: fetches the object; what it raises comes through
        """
        if self._is_there(entry):
            return True
        if entry.bytes > self.limit or time.monotonic() < self._rest_until:
            return False
        with self._locked(f"fetch-{entry.sha256[:2]}"):
            if self._is_there(entry):  # somebody else has fetched it while we waited
                return True
            if not self._has_room(entry.bytes):
                self._rest_until = time.monotonic() + REST_SECONDS
                return False
            content = load()
            if entry_of(content) != entry:
                self._rest_until = time.monotonic() + REST_SECONDS
                return False
            return self._put(entry, content)

    def discard(self, path: Path) -> None:
        """Remove a copy that turned out to be damaged."""
        with suppress(OSError):
            path.unlink()

    def _is_there(self, entry: ObjectEntry) -> bool:
        path = self.path(entry)
        try:
            if path.stat().st_size != entry.bytes:
                return False
            os.utime(path)
        except OSError:
            return False
        return True

    def _put(self, entry: ObjectEntry, content: bytes) -> bool:
        """Place a copy in one step, making room for it first."""
        temporary = self.folder / f".{secrets.token_hex(8)}"
        try:
            with self._locked("room"):
                self._evict(entry.bytes)
                temporary.write_bytes(content)
                temporary.replace(self.path(entry))
        except OSError:  # no space, no permission, no such folder
            with suppress(OSError):
                temporary.unlink()
            self._rest_until = time.monotonic() + REST_SECONDS
            return False
        return True

    def _has_room(self, wanted: int) -> bool:
        """Return whether a copy of so many bytes fits without evicting one that is in use."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files = self._files()
        except OSError:
            return False
        recent = time.time() - self.in_use_seconds
        return wanted + sum(size for used, size, _ in files if used > recent) <= self.limit

    def _evict(self, wanted: int) -> None:
        """Remove what was used least recently, until there is room."""
        files = sorted(self._files())
        total = wanted + sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self.limit:
                return
            with suppress(FileNotFoundError):
                path.unlink()
            total -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of every copy; half-written ones that nobody owns are removed."""
        found = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                if path.name.startswith(".lock-"):
                    continue
                if path.name.startswith(".") and (
                    time.time() - status.st_mtime > ABANDONED_SECONDS
                ):
                    path.unlink()
                    continue
                found.append((status.st_mtime, status.st_size, path))
        return found

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One at a time among all threads and processes; no lock where the folder gives none."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / f".lock-{name}", os.O_CREAT | os.O_RDWR, 0o666)
        except OSError:
            yield
            return
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            # Told, since a fork made meanwhile would keep the lock for as long as it lives.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
