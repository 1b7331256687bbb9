"""Reads frames of shard objects in an object store: index once, then one ranged read a frame.

With a folder for local copies, whole objects are fetched once and read there by the local reader.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import CacheCorrupt, CacheError
from stillroom.storage_specs.layout import StoredArray
from stillroom.storage_specs.local_copies import LocalCopies
from stillroom.storage_specs.shard_reader import (
    CACHED_SHARDS,
    MISSING,
    ArrayReader,
    decode_chunk,
    index_bytes,
    parse_index,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.storage_specs.manifest import ObjectEntry
    from stillroom.storage_specs.objects import Objects

USED_EVERY_SECONDS = 30.0  # how often a copy that is being read is marked as used
VERIFY = "run `stillroom cache verify`"


@dataclass(frozen=True)
class CopiedArray(StoredArray):
    """An array of whose shard objects one is looked for under another name."""

    copy: str

    def object_path(self, shard: int) -> str:
        """The copy's name, whichever shard it is of."""
        return self.copy


class RemoteArrayReader:
    """Frames of one stored array in an object store; any number of threads may share it.

    entry: size and sha256 of a shard's object, as the manifest part has them
    """

    def __init__(
        self,
        objects: Objects,
        stored: StoredArray,
        shard_frames: int,
        entry: Callable[[int], ObjectEntry | None],
    ) -> None:
        self.objects = objects
        self.stored = stored
        self.shard_frames = shard_frames
        self._entry = entry
        self._copies = LocalCopies.from_environment()
        self._local: dict[int, tuple[ArrayReader, float]] = {}  # and when it was marked as used
        self._index_of: dict[int, NDArray[Any]] = {}
        self._small: dict[int, list[NDArray[Any]]] = {}

    def frame(self, shard: int, position: int) -> NDArray[Any]:
        """As `ArrayReader.frame`.

        Raises:
            StoreUnavailable: the store refuses or does not answer.
        """
        local = self._copy_of(shard)
        if local is not None and self._copies is not None:
            try:
                return local.frame(shard, position)
            except CacheError:  # evicted meanwhile, or damaged: the store has the truth
                self._local.pop(shard, None)
                self._copies.discard(local.stored.object_path(shard))
        known = shard in self._index_of
        try:
            return self._ranged(shard, position)
        except CacheCorrupt:
            if not known:
                raise
        # The object may have been replaced since its index was read.
        self._index_of.pop(shard, None)
        return self._ranged(shard, position)

    def small_frame(self, shard: int, position: int, frames: int) -> NDArray[Any]:
        """As `ArrayReader.small_frame`: the whole object comes by one request."""
        whole = self._small.get(shard)
        if whole is None:
            content = self._read(shard, None, 0)
            index = self._parsed(shard, content[-index_bytes(self.shard_frames) :])
            whole = []
            for place in range(frames):
                offset, length = self._place(index, shard, place)
                whole.append(self._decoded(shard, place, content[offset : offset + length]))
            _remember(self._small, shard, whole)
        return whole[position]

    def _ranged(self, shard: int, position: int) -> NDArray[Any]:
        index = self._index_of.get(shard)
        if index is None:
            length = index_bytes(self.shard_frames)
            index = self._parsed(shard, self._read(shard, -length, length))
            _remember(self._index_of, shard, index)
        offset, length = self._place(index, shard, position)
        return self._decoded(shard, position, self._read(shard, offset, length))

    def _read(self, shard: int, start: int | None, length: int) -> bytes:
        path = self.stored.object_path(shard)
        try:
            if start is None:
                return self.objects.read(path)
            return self.objects.read_range(path, start, length)
        except FileNotFoundError as error:
            raise self._damaged(shard, None, "its object is missing") from error

    def _parsed(self, shard: int, tail: bytes) -> NDArray[Any]:
        try:
            return parse_index(tail, self.shard_frames)
        except ValueError as error:
            raise self._damaged(shard, None, f"its index: {error}") from error

    def _place(self, index: NDArray[Any], shard: int, position: int) -> tuple[int, int]:
        offset, length = (int(number) for number in index[position])
        if offset == MISSING:
            raise self._damaged(shard, position, "its chunk was never written")
        return offset, length

    def _decoded(self, shard: int, position: int, chunk: bytes) -> NDArray[Any]:
        try:
            return decode_chunk(self.stored, chunk)
        except ValueError as error:
            raise self._damaged(shard, position, str(error)) from error

    def _damaged(self, shard: int, position: int | None, why: str) -> CacheCorrupt:
        where = f"shard {shard}"
        if position is not None:
            where = f"frame {shard * self.shard_frames + position} ({where})"
        path = self.objects.where(self.stored.path)
        return CacheCorrupt(f"{path}: {where} is damaged: {why}; {VERIFY}")

    def _copy_of(self, shard: int) -> ArrayReader | None:
        """A reader of the shard's local copy, fetched if need be; None where there can be none."""
        copies, now = self._copies, time.monotonic()
        if copies is None:
            return None
        found = self._local.get(shard)
        if found is not None and now - found[1] < USED_EVERY_SECONDS:
            return found[0]
        entry = self._entry(shard)
        if entry is None or not copies.hold(entry, lambda: self._read(shard, None, 0)):
            self._local.pop(shard, None)
            return None
        reader = self._reader_in(copies.folder, entry) if found is None else found[0]
        _remember(self._local, shard, (reader, now))
        return reader

    def _reader_in(self, folder: Path, entry: ObjectEntry) -> ArrayReader:
        copied = CopiedArray(**vars(self.stored), copy=entry.sha256)
        return ArrayReader(folder, copied, self.shard_frames)


def _remember(kept: dict[int, Any], shard: int, value: Any) -> None:
    if len(kept) >= CACHED_SHARDS:
        kept.clear()
    kept[shard] = value
