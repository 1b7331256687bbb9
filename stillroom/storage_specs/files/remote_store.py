# ruff: noqa: D102  (what each operation does is said once, in object_store.py)
"""A cache in an object store. There a PUT is whole or not there: no temporary name, no rename."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from stillroom.storage_specs.errors import StoreUnavailable
from stillroom.storage_specs.files.ranged_file import RangedFile
from stillroom.storage_specs.files.store_client import StoreClient, demand_obstore, usable_here

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from stillroom.storage_specs.files.forked_client import ForkedClient
    from stillroom.storage_specs.files.listed import Listed


class RemoteFile(RangedFile):
    """One object, read by a request a piece."""

    def __init__(self, store: RemoteStore, path: str) -> None:
        self.store = store
        self.path = path

    def read(self, start: int, length: int) -> NDArray[np.uint8]:
        return np.frombuffer(self.store.read_range(self.path, start, length), np.uint8)


class RemoteStore:
    """Objects below a URL; `ObjectStore` says what each operation does.

    Pickled and compared by its URL. Each process connects for itself, when it first asks.
    """

    def __init__(self, url: str) -> None:
        demand_obstore(url)
        self.url = url
        self._held: tuple[int, StoreClient | ForkedClient] | None = None

    def __reduce__(self) -> tuple[type[RemoteStore], tuple[str]]:
        return RemoteStore, (self.url,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    @property
    def remote(self) -> bool:
        return True

    def where(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url

    def make(self) -> None:
        """A store has no folders to make."""

    def entries(self) -> list[str] | None:
        files, folders = self._client().list("")
        return [file.name for file in files] + folders

    def exists(self, path: str) -> bool:
        return self._client().exists(path)

    def files(self, folder: str) -> list[Listed]:
        return self._client().list(folder)[0]

    def folders(self, folder: str) -> list[str]:
        return self._client().list(folder)[1]

    def read(self, path: str, limit: int | None = None) -> bytes:
        content = self._client().get(path)
        if limit is not None and len(content) > limit:
            why = (
                f"it has {len(content):,} bytes, which is more than the {limit:,} that it can have"
            )
            raise OSError(errno.EINVAL, why, self.where(path))
        return content

    def open(self, path: str) -> RemoteFile:
        return RemoteFile(self, path)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """As `RangedFile.read`."""
        return self._client().get(path, start, length)

    def write_whole(self, path: str, content: bytes, *, keep: bool = False) -> bool:
        return self._client().put(path, content, keep)

    def remove(self, path: str) -> bool:
        return self._client().delete(path)

    def locked(self, path: str, place: int) -> AbstractContextManager[None]:
        del path, place
        return nullcontext()

    def first_link(self, places: Iterable[str]) -> str | None:
        del places
        return None

    def sweep(self) -> int:
        return 0  # there is no staging: what was not put whole was never there

    def _client(self) -> StoreClient | ForkedClient:
        held = self._held
        if held is None or held[0] != os.getpid():
            held = self._held = (os.getpid(), self._connected())
        return held[1]

    def _connected(self) -> StoreClient | ForkedClient:
        if usable_here():
            return StoreClient(self.url)
        if self.url.startswith("memory://"):
            raise StoreUnavailable(
                f"{self.url}: lives in the process that made it, and this is a fork of that one; "
                "use threads, or a folder"
            )
        from stillroom.storage_specs.files.forked_client import ForkedClient

        return ForkedClient(self.url)
