# ruff: noqa: D102  (object_store.py documents the operations)
"""A cache in a folder: the durable files behind the same few operations as an object store."""

from __future__ import annotations

import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.storage_specs.files import durable_files
from stillroom.storage_specs.files.cautious_reads import first_link, read_whole
from stillroom.storage_specs.files.file_locks import locked
from stillroom.storage_specs.files.listed import Listed
from stillroom.storage_specs.files.open_files import OPEN_FILES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from stillroom.storage_specs.files.open_files import OpenFile

# A folder that is not there, or that may not be read, lists as an empty one.
UNLISTED = (FileNotFoundError, NotADirectoryError, PermissionError)


@dataclass(frozen=True)
class FolderStore:
    """Files under a folder; `ObjectStore` documents the operations."""

    root: Path

    @property
    def remote(self) -> bool:
        return False

    def where(self, path: str) -> str:
        return str(self.root / path)

    def make(self) -> None:
        try:
            durable_files.make_folder(self.root)
        except OSError as error:
            raise durable_files.unwritable(error, self.root, 0) from error

    def entries(self) -> list[str] | None:
        if not self.root.exists():
            return []
        return [path.name for path in self.root.iterdir()] if self.root.is_dir() else None

    def exists(self, path: str) -> bool:
        return (self.root / path).exists()

    def files(self, folder: str) -> list[Listed]:
        found = []
        with suppress(*UNLISTED):
            for path in (self.root / folder).iterdir():
                with suppress(FileNotFoundError):  # removed a moment ago
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode):
                        signature = (status.st_mtime_ns, status.st_size)
                        found.append(Listed(path.name, status.st_size, signature))
        return found

    def folders(self, folder: str) -> list[str]:
        with suppress(*UNLISTED):
            return [path.name for path in (self.root / folder).iterdir() if path.is_dir()]
        return []

    def read(self, path: str, limit: int | None = None) -> bytes:
        return read_whole(self.root / path, limit)

    def open(self, path: str) -> OpenFile:
        return OPEN_FILES.get(f"{self.root}/{path}")

    def write_whole(self, path: str, content: bytes, *, keep: bool = False) -> bool:
        return durable_files.write_whole(self.root, path, content, keep=keep)

    def remove(self, path: str) -> bool:
        return durable_files.remove(self.root, path)

    def locked(self, path: str, place: int) -> AbstractContextManager[None]:
        return locked(self.root / path, place)

    def first_link(self, places: Iterable[str]) -> str | None:
        return first_link(self.root, places)

    def sweep(self) -> int:
        return durable_files.sweep(self.root)
