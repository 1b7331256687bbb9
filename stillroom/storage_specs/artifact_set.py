"""The frames of one source, or what one teacher says of them: committed shards and new ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stillroom.storage_specs.cautious_reads import (
    METADATA_BYTES,
    PART_BYTES,
    json_of,
    read_whole,
)
from stillroom.storage_specs.durable_files import remove
from stillroom.storage_specs.errors import (
    CacheCorrupt,
    CacheError,
    CacheIncomplete,
    CacheMismatch,
    ConfigError,
    FrameError,
)
from stillroom.storage_specs.fingerprint import ANY, differences
from stillroom.storage_specs.layout import KEY, Definition, part_folder, part_path, set_folder
from stillroom.storage_specs.manifest import SCHEMA, decode_part, table_of
from stillroom.storage_specs.shard_reader import ArrayReader
from stillroom.storage_specs.shard_writer import ShardWriter
from stillroom.storage_specs.verify import verify_definition, verify_shard

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.storage_specs.fingerprint import Difference
    from stillroom.storage_specs.layout import ArraySpec
    from stillroom.storage_specs.manifest import ShardPart
    from stillroom.storage_specs.store import Cache
    from stillroom.storage_specs.verify import Fault

PART_NAME = re.compile(r"(\d{5,})\.parquet")


class ArtifactSet:
    """One set of a cache. Threads may share it; a pickled copy opens its files anew.

    identity: everything outside the cache that its bytes depend on
    count: frames of the source, bad ones included
    shards: number of shards of `shard_frames` frames, the last perhaps of fewer
    arrays: how each artifact is stored
    fingerprint, fingerprints: sha256 of all this, and of each artifact alone
    """

    def __init__(self, cache: Cache, definition: Definition) -> None:
        self.cache = cache
        self.definition = definition
        self.source = definition.source
        self.name = definition.name
        self.identity = definition.identity
        self.count = definition.count
        self.shard_frames = definition.shard_frames
        self.shards = -(-definition.count // definition.shard_frames)
        self.arrays: dict[str, ArraySpec] = {spec.artifact: spec for spec in definition.arrays}
        self.fingerprint = definition.fingerprint
        self.fingerprints = definition.fingerprints
        self._usable: dict[int, NDArray[np.bool_]] = {}  # by shard, as far as seen
        self._seen: dict[int, tuple[int, int]] = {}  # (mtime, size) of the part then
        self._paths = {
            stored.path for spec in definition.arrays for stored in definition.stored(spec)
        }
        self._readers = {
            spec.artifact: [
                ArrayReader(cache.path, stored, definition.shard_frames)
                for stored in definition.stored(spec)
            ]
            for spec in definition.arrays
        }

    def __reduce__(self) -> tuple[type[ArtifactSet], tuple[Cache, Definition]]:
        return ArtifactSet, (self.cache, self.definition)

    def __repr__(self) -> str:
        return f"ArtifactSet({self.source}/{self.name} in {self.cache.path})"

    def require(self, identity: dict[str, Any]) -> None:
        """Refuse a run that was made for something else; "auto" on its side agrees with anything.

        Raises:
            CacheMismatch: names each field that differs, both values, and what to do.
        """
        found = differences(self.identity, identity, wildcard=ANY)
        if found:
            raise mismatch(self.cache, self.definition, found)

    def shard_range(self, shard: int) -> range:
        """Indices of the frames of a shard.

        Raises:
            ConfigError: there is no such shard.
        """
        if not 0 <= shard < self.shards:
            raise ConfigError(f"{self!r} has shards 0 to {self.shards - 1}, not {shard}")
        start = shard * self.shard_frames
        return range(start, min(start + self.shard_frames, self.count))

    def committed(self) -> frozenset[int]:
        """Shards that exist: with a readable manifest part that carries our fingerprint."""
        folder = self.cache.path / part_folder(self.source, self.name)
        found = set()
        for path in folder.glob("*.parquet"):
            name = PART_NAME.fullmatch(path.name)
            if name is None or int(name[1]) >= self.shards:
                continue
            shard = int(name[1])
            try:
                status = path.stat()
                signature = (status.st_mtime_ns, status.st_size)
                if self._seen.get(shard) != signature:
                    self.part(shard)
                    self._seen[shard] = signature
                found.add(shard)
            except (CacheError, FileNotFoundError):
                self._seen.pop(shard, None)
        return frozenset(found)

    def part(self, shard: int) -> ShardPart:
        """The manifest part of a committed shard.

        Raises:
            CacheIncomplete: the shard is not committed.
            CacheCorrupt: its part is damaged.
            CacheMismatch: its part belongs to another definition.
            CacheError: its part cannot be read.
        """
        path = part_path(self.source, self.name, shard)
        try:
            content = read_whole(self.cache.path / path, PART_BYTES)
            part = decode_part(content, path, len(self.shard_range(shard)))
        except FileNotFoundError as error:
            span = self.shard_range(shard)
            raise CacheIncomplete(
                f"{self.cache.path}: frames {span[0]} to {span[-1]} of {self.source} are not in "
                f"{self.name!r} (shard {shard}); run `stillroom cache build`"
            ) from error
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
            raise CacheError(f"{self.cache.path}/{path}: {why}") from error
        claims = (part.source, part.set_name, part.shard, part.fingerprint)
        span = self.shard_range(shard)
        if claims != (self.source, self.name, shard, self.fingerprint):
            raise CacheMismatch(
                f"{self.cache.path}/{path} belongs to {part.source}/{part.set_name}, shard "
                f"{part.shard}, fingerprint {part.fingerprint[:12]}..., not to this set "
                f"({self.fingerprint[:12]}...); re-run `stillroom cache build`"
            )
        if [row.index for row in part.rows] != list(span):
            raise CacheCorrupt(
                f"{self.cache.path}/{path}: its rows are not frames {span[0]} to {span[-1]}; "
                "re-run `stillroom cache build`"
            )
        if strangers := sorted(part.objects.keys() - self._paths):
            raise CacheCorrupt(
                f"{self.cache.path}/{path}: it names an object of {strangers[0]!r:.60}, which is "
                "no array of this set; re-run `stillroom cache build`"
            )
        self._usable[shard] = np.array([row.status == "ok" for row in part.rows])
        return part

    def writer(self, shard: int) -> ShardWriter:
        """A writer of one shard."""
        self.shard_range(shard)
        return ShardWriter(self.cache.path, self.definition, shard, self._still_defined)

    def discard(self, shard: int) -> bool:
        """Withdraw a shard's commit, so that the next build makes it again; False if none was."""
        self._usable.pop(shard, None)
        self._seen.pop(shard, None)
        return remove(self.cache.path, part_path(self.source, self.name, shard))

    def read(self, artifact: str, index: int) -> NDArray[Any]:
        """One frame's decoded array: uint8 for frames and labels, float32 for the rest.

        Raises:
            ConfigError: the set has no such artifact, or the source no such frame.
            CacheIncomplete: the frame's shard is not committed.
            FrameError: the frame is bad; the message is its reason.
            CacheCorrupt: a checksum fails; names the array and the frame.
        """
        spec = self.arrays.get(artifact)
        if spec is None:
            known = ", ".join(self.arrays)
            raise ConfigError(f"{self!r} has no {artifact!r}; known: {known}")
        if not 0 <= index < self.count:
            raise ConfigError(f"{self!r} has frames 0 to {self.count - 1}, not {index}")
        shard, position = divmod(int(index), self.shard_frames)
        usable = self._usable.get(shard)
        if usable is None:
            self.part(shard)
            usable = self._usable[shard]
        if not usable[position]:
            row = self.part(shard).rows[position]
            raise FrameError(f"{self.source}, frame {row.frame_id}: {row.reason}")
        values, *sides = self._readers[artifact]
        side = {
            reader.stored.attributes["role"]: reader.small_frame(shard, position, len(usable))
            for reader in sides
        }
        return spec.codec.decode(values.frame(shard, position), side)

    def rows(self) -> pa.Table:
        """The rows of all committed shards, by index."""
        tables = [table_of(self.part(shard).rows) for shard in sorted(self.committed())]
        return pa.concat_tables(tables) if tables else SCHEMA.empty_table()

    def usable(self) -> NDArray[np.int64]:
        """Indices of the committed frames that are not bad, ascending."""
        indices = [
            np.flatnonzero(self._usable[shard]) + shard * self.shard_frames
            for shard in sorted(self.committed())
        ]
        return np.concatenate(indices) if indices else np.zeros(0, np.int64)

    def sizes(self) -> dict[str, int]:
        """Committed bytes of each artifact, its side arrays included."""
        artifact_of_path = {
            stored.path: spec.artifact
            for spec in self.definition.arrays
            for stored in self.definition.stored(spec)
        }
        sizes = dict.fromkeys(self.arrays, 0)
        for shard in self.committed():
            for path, entry in self.part(shard).objects.items():
                sizes[artifact_of_path[path]] += entry.bytes
        return sizes

    def verify_shard(self, shard: int) -> list[Fault]:
        """Everything that is wrong with a shard on disk; nothing for one that is not committed."""
        self.shard_range(shard)
        return verify_shard(self, shard)

    def verify_definition(self) -> list[Fault]:
        """Everything that is wrong with the metadata that follow from the set's definition."""
        return verify_definition(self)

    def _still_defined(self) -> bool:
        path = self.cache.path / set_folder(self.source, self.name) / "zarr.json"
        try:
            document = json_of(read_whole(path, METADATA_BYTES))
            return bool(document["attributes"][KEY]["fingerprint"] == self.fingerprint)
        except (OSError, ValueError, KeyError, TypeError):
            return False


def mismatch(cache: Cache, on_disk: Definition, found: list[Difference]) -> CacheMismatch:
    """The error of a run that asks for another identity than the cache has."""
    width = max(len(difference.field) for difference in found)
    lines = (
        f"  {difference.field:<{width}}{str(difference)[len(difference.field) :]}"
        for difference in found
    )
    return CacheMismatch(
        f"{cache.path}: {on_disk.name!r} on {on_disk.source!r} was built from something else\n"
        + "\n".join(lines)
        + "\n  point cache.path at another folder and run `stillroom cache build`, "
        "or make the run agree with the cache"
    )
