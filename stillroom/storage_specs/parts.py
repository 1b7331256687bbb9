"""The committed parts of a set, checked against it, and what reading needs of those used before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

from stillroom.storage_specs.buffers import remember
from stillroom.storage_specs.errors import (
    CacheCorrupt,
    CacheError,
    CacheIncomplete,
    CacheMismatch,
    ConfigError,
)
from stillroom.storage_specs.files.cautious_reads import PART_BYTES
from stillroom.storage_specs.layout import part_path
from stillroom.storage_specs.manifest import decode_part

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from stillroom.storage_specs.files.object_store import ObjectStore
    from stillroom.storage_specs.layout import Definition
    from stillroom.storage_specs.manifest import ObjectEntry, ShardPart

REQUESTS = 8  # to an object store at a time


@dataclass(frozen=True)
class Held:
    """What is kept of a part.

    Attributes:
        crc32c: of its file
        usable: (frames,) bool, False for bad rows
        objects: by the path of their array
    """

    crc32c: int
    usable: NDArray[np.bool_]
    objects: dict[str, ObjectEntry]


class Parts:
    """The manifest parts of a set. Threads may share it."""

    def __init__(self, store: ObjectStore, definition: Definition) -> None:
        self._store = store
        self._definition = definition
        self._shards = -(-definition.count // definition.shard_frames)
        self._paths = {
            stored.path for spec in definition.arrays for stored in definition.stored(spec)
        }
        self._held: dict[int, Held] = {}

    def span(self, shard: int) -> range:
        """Indices of the frames of a shard.

        Raises:
            ConfigError: there is no such shard.
        """
        if not 0 <= shard < self._shards:
            of = f"{self._definition.source}/{self._definition.name}"
            raise ConfigError(f"{of} has shards 0 to {self._shards - 1}, not {shard}")
        start = shard * self._definition.shard_frames
        return range(start, min(start + self._definition.shard_frames, self._definition.count))

    def read(self, shard: int) -> ShardPart:
        """Read the part of a shard, hold it against the definition, and keep what `held` returns.

        Args:
            shard: 0 <= shard < shards of the set

        Returns:
            one row a frame, by index from the first of `span(shard)` on; units as in `FrameRow`.

        Raises:
            ConfigError: there is no such shard.
            CacheIncomplete: it is not committed.
            CacheCorrupt: its part is damaged, or has other rows or arrays than the set.
            CacheMismatch: its part belongs to another definition.
            CacheError: its part cannot be read.
        """
        return self._decoded(shard, self._content(shard))

    def sound(self, shards: list[int]) -> list[ShardPart | None]:
        """The parts of shards, None for one that is no part; over a network many at once."""
        if not self._store.remote:
            return [self._sound(shard) for shard in shards]
        with ThreadPoolExecutor(REQUESTS, "manifest") as pool:
            return list(pool.map(self._sound, shards))

    def held(self, shard: int) -> Held:
        """What is kept of a part, read if need be; raises what `read` raises."""
        if shard not in self._held:
            self.read(shard)
        return self._held[shard]

    def renew(self, shard: int, changed: Callable[[int], None]) -> None:
        """Look at a part again; call `changed` with the shard if it is another than was held.

        That is called before the new part is held: who finds nothing new must find that what was
        read before is forgotten. Raises what `read` raises.
        """
        before, content = self._held.get(shard), self._content(shard)
        if before is not None and before.crc32c == google_crc32c.value(content):
            return
        if before is not None:
            changed(shard)
        self._decoded(shard, content)

    def forget(self, shard: int) -> None:
        """Read a part anew when something of it is next needed."""
        self._held.pop(shard, None)

    def _sound(self, shard: int) -> ShardPart | None:
        try:
            return self.read(shard)
        except CacheError:
            return None

    def _content(self, shard: int) -> bytes:
        definition, span = self._definition, self.span(shard)
        path = part_path(definition.source, definition.name, shard)
        try:
            return self._store.read(path, PART_BYTES)
        except FileNotFoundError as error:
            raise CacheIncomplete(
                f"{self._store.where('')}: frames {span[0]} to {span[-1]} of {definition.source} "
                f"are not in {definition.name!r} (shard {shard}); run `stillroom cache build "
                "RUN.toml`"
            ) from error
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
            raise CacheError(f"{self._store.where(path)}: {why}") from error

    def _decoded(self, shard: int, content: bytes) -> ShardPart:
        definition, span = self._definition, self.span(shard)
        path = part_path(definition.source, definition.name, shard)
        where, rebuild = self._store.where(path), "re-run `stillroom cache build RUN.toml`"
        part = decode_part(content, path, len(span))
        claims = (part.source, part.set_name, part.shard, part.fingerprint)
        if claims != (definition.source, definition.name, shard, definition.fingerprint):
            raise CacheMismatch(
                f"{where} belongs to {part.source}/{part.set_name}, shard {part.shard}, "
                f"fingerprint {part.fingerprint[:12]}..., not to this set "
                f"({definition.fingerprint[:12]}...); {rebuild}"
            )
        if [row.index for row in part.rows] != list(span):
            rows = f"frames {span[0]} to {span[-1]}"
            raise CacheCorrupt(f"{where}: its rows are not {rows}; {rebuild}")
        if strangers := sorted(part.objects.keys() - self._paths):
            raise CacheCorrupt(
                f"{where}: it names an object of {strangers[0]!r:.60}, which is no array of this "
                f"set; {rebuild}"
            )
        usable = np.array([row.status == "ok" for row in part.rows])
        remember(self._held, shard, Held(google_crc32c.value(content), usable, part.objects))
        return part
