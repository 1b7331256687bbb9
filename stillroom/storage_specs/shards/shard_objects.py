"""Read the shard objects of an array from its store, or from copies on this machine."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from stillroom.storage_specs.buffers import remember
from stillroom.storage_specs.errors import CacheError
from stillroom.storage_specs.files.open_files import OPEN_FILES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stillroom.storage_specs.files.local_copies import LocalCopies
    from stillroom.storage_specs.files.object_store import ObjectStore
    from stillroom.storage_specs.files.ranged_file import RangedFile
    from stillroom.storage_specs.manifest import ObjectEntry
    from stillroom.storage_specs.shards.stored_array import StoredArray

USED_EVERY_SECONDS = 30.0  # how often a copy that is being read is marked as used


class ShardObjects:
    """The objects of one stored array, by shard."""

    def __init__(self, store: ObjectStore, stored: StoredArray) -> None:
        self.store = store
        self.stored = stored

    @property
    def name(self) -> str:
        """The array, for messages."""
        return self.store.where(self.stored.path) if self.store.remote else self.stored.path

    def open(self, shard: int) -> RangedFile:
        """Return a shard's object, to be read in pieces.

        Raises:
            FileNotFoundError: there is none.
            CacheError: it cannot be opened.
        """
        return self.store.open(self.stored.object_path(shard))

    def forget(self, shard: int) -> None:
        """Look for a shard's object anew when it is next opened."""


class CopiedObjects(ShardObjects):
    """Objects of a remote store that are fetched whole, once, and read on this machine.

    Args:
        entry: size and sha256 of the object of a shard and an array's path, as the manifest has
            them
    """

    def __init__(
        self,
        store: ObjectStore,
        stored: StoredArray,
        copies: LocalCopies,
        entry: Callable[[int, str], ObjectEntry | None],
    ) -> None:
        super().__init__(store, stored)
        self._copies = copies
        self._entry = entry
        self._held: dict[int, tuple[Path, float]] = {}  # and when it was marked as used

    def open(self, shard: int) -> RangedFile:  # noqa: D102
        path = self._copy_of(shard)
        if path is not None:
            with suppress(FileNotFoundError, CacheError):  # evicted meanwhile
                return OPEN_FILES.get(str(path))
            self._held.pop(shard, None)
        return super().open(shard)

    def forget(self, shard: int) -> None:  # noqa: D102
        path, _ = self._held.pop(shard, (None, 0.0))
        if path is not None:
            self._copies.discard(path)

    def _copy_of(self, shard: int) -> Path | None:
        """The shard's local copy, fetched if need be; None where there can be none."""
        entry, now = self._entry(shard, self.stored.path), time.monotonic()
        if entry is None:
            return None
        path = self._copies.path(entry)
        known, used = self._held.get(shard, (None, 0.0))
        if path != known or now - used >= USED_EVERY_SECONDS:
            object_path = self.stored.object_path(shard)
            if not self._copies.hold(entry, lambda: self.store.read(object_path)):
                self._held.pop(shard, None)
                return None
            remember(self._held, shard, (path, now))
        return path
