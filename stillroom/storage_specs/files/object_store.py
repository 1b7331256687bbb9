"""The few operations on files that a cache needs from a disk or an object store.

Paths are those of docs/storage_format.md, section 2, from the cache's root, with "/" between.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.files.folder_store import FolderStore

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from stillroom.storage_specs.files.listed import Listed
    from stillroom.storage_specs.files.ranged_file import RangedFile

REMOTE = re.compile(r"(?:s3|gs|memory)://[^/?#\s]+(?:/[^?#\s]*)?")


class ObjectStore(Protocol):
    """Files by their path. Threads may share it; a pickled copy connects anew.

    A read of a missing file raises FileNotFoundError; a disk's other faults come as OSError,
    a store's as StoreUnavailable. Readers get a written file whole or not at all.
    """

    @property
    def remote(self) -> bool:
        """Whether every operation is a request over a network."""

    def where(self, path: str) -> str:
        """Return the full path or URL, for messages."""

    def make(self) -> None:
        """Make ready for writing: the root, if it has to be made (CacheUnwritable where it cannot).

        A warning is logged where `keep` cannot be relied on between two builders.
        """

    def entries(self) -> list[str] | None:
        """Names directly at the root; None where something else than a folder stands there."""

    def exists(self, path: str) -> bool:
        """Whether there is a file."""

    def files(self, folder: str) -> list[Listed]:
        """The files directly in a folder; none where there is no folder."""

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder, "" for the root."""

    def read(self, path: str, limit: int | None = None) -> bytes:
        """The whole file; OSError where it has more bytes than `limit`."""

    def open(self, path: str) -> RangedFile:
        """The file, to be read in pieces (CacheError where it cannot be opened)."""

    def write_whole(self, path: str, content: bytes, *, keep: bool = False) -> bool:
        """Put a file there in one step; with `keep`, leave one that is there and return False."""

    def remove(self, path: str) -> bool:
        """Remove a file; False where there was none."""

    def locked(self, path: str, place: int) -> AbstractContextManager[None]:
        """Keep other writers of this cache from the byte at `place` of a file meanwhile.

        For what goes wrong only where two of them do different things; where there are no locks,
        in object stores among others, it keeps nobody.
        """

    def first_link(self, places: Iterable[str]) -> str | None:
        """The first of these paths, or of the folders above them, that is a symbolic link."""

    def sweep(self) -> int:
        """Remove what crashed writers left behind; the number of files."""


def place_of(place: str | Path) -> Path | str:
    """A cache's place: a Path for a folder, a string for a URL, without slashes at its end.

    Raises:
        ConfigError: an empty text, a URL of another kind, or one without a bucket.
    """
    if isinstance(place, Path):
        return place
    if not place.strip():
        raise ConfigError(
            "expected a folder, or the URL of a place in an object store, got an empty text; "
            "write '.' if you mean the folder that you call from"
        )
    if "://" not in place:
        return Path(place)
    url = place.rstrip("/")
    inner = url.partition("://")[2].split("/")
    if not REMOTE.fullmatch(url) or {"", ".", ".."} & set(inner):
        raise ConfigError(
            f"{place}: expected a folder, s3://bucket/prefix, gs://bucket/prefix or memory://name"
        )
    return url


def absolute(place: Path | str) -> Path | str:
    """Return the path independent of the working folder, symbolic links resolved."""
    found = place_of(place)
    return found.resolve() if isinstance(found, Path) else found


def store_at(place: str | Path) -> ObjectStore:
    """Return the store of a folder or a URL; nothing is opened or connected to yet.

    Raises:
        ConfigError: a URL of another kind.
    """
    found = place_of(place)
    if isinstance(found, Path):
        return FolderStore(found)
    from stillroom.storage_specs.files.remote_store import RemoteStore

    return RemoteStore(found)
