"""The frames of one source, or one teacher's outputs for them: committed and new shards."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from stillroom.storage_specs.catalogue import Catalogue
from stillroom.storage_specs.errors import (
    CacheMismatch,
    ConfigError,
    FrameError,
)
from stillroom.storage_specs.files.cautious_reads import METADATA_BYTES, json_of
from stillroom.storage_specs.files.local_copies import LocalCopies
from stillroom.storage_specs.fingerprint import identity_differences
from stillroom.storage_specs.layout import KEY, Definition, part_path, set_folder
from stillroom.storage_specs.parts import Parts
from stillroom.storage_specs.shards.array_reader import ArrayReader
from stillroom.storage_specs.shards.artifact_reader import ArtifactReader
from stillroom.storage_specs.shards.object_checks import Watch, check_size
from stillroom.storage_specs.shards.shard_objects import CopiedObjects, ShardObjects
from stillroom.storage_specs.shards.shard_writer import ShardWriter

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa
    from numpy.typing import NDArray

    from stillroom.storage_specs.codecs.codec import Encoded, Side
    from stillroom.storage_specs.fidelity import Fidelity
    from stillroom.storage_specs.files.object_store import ObjectStore
    from stillroom.storage_specs.files.ranged_file import RangedFile
    from stillroom.storage_specs.fingerprint import Difference
    from stillroom.storage_specs.layout import ArraySpec
    from stillroom.storage_specs.manifest import ObjectEntry, ShardPart
    from stillroom.storage_specs.shards.stored_array import StoredArray


class ArtifactSet:
    """One set of a cache. Threads may share it; a pickled copy opens its files anew.

    Attributes:
        identity: everything outside the cache that its bytes depend on
        count: frames of the source, bad ones included
        shards: number of shards of `shard_frames` frames, the last perhaps of fewer
        arrays: how each artifact is stored
        fingerprint, fingerprints: sha256 of all this, and of each artifact alone
    """

    def __init__(
        self, store: ObjectStore, definition: Definition, *, watched: bool = False
    ) -> None:
        self.store = store
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
        self._copies = LocalCopies.from_environment() if store.remote else None
        self._parts = Parts(store, definition)
        self._catalogue = Catalogue(definition, store, self._parts.sound)
        self._watch = Watch() if watched else None
        self._readers = {
            spec.artifact: ArtifactReader(definition, spec, self._array_reader)
            for spec in definition.arrays
        }

    def _array_reader(self, stored: StoredArray) -> ArrayReader:
        objects = ShardObjects(self.store, stored)
        if self._copies is not None and stored.attributes["role"] == "values":
            objects = CopiedObjects(self.store, stored, self._copies, self._entry)
        return ArrayReader(objects, self.shard_frames, partial(self._check_object, stored.path))

    def _entry(self, shard: int, path: str) -> ObjectEntry | None:
        return self._parts.held(shard).objects.get(path)

    def watch(self) -> None:
        """Compare local objects with their sha256 when they are opened, as far as time allows.

        For readers of many frames: it takes a second or two at first and 1 % of the time then, and
        finds an object that lies in another's place before anything is learned from it.
        """
        if self._watch is None:
            self._watch = Watch()

    def _check_object(self, path: str, shard: int, file: RangedFile, size: int) -> None:
        """Hold an object that was opened against the manifest as it is now.

        Raises:
            CacheCorrupt: it is not the one that was committed.
            CacheIncomplete: the shard has been withdrawn since.
        """
        # Of a shard that was built again nothing that was read before fits what is there now.
        self._parts.renew(shard, self._forget)
        entry = self._entry(shard, path)
        if entry is None:
            return
        where = f"{self.store.where(path)}: shard {shard}"
        check_size(size, entry, where)
        if self._watch is not None and file.version is not None:
            self._watch.add(file, entry, where)

    def _forget(self, shard: int) -> None:
        for reader in self._readers.values():
            reader.forget(shard)

    @property
    def place(self) -> str:
        """The cache's path or URL, for messages."""
        return self.store.where("")

    def __reduce__(self) -> tuple[Any, ...]:
        again = partial(ArtifactSet, watched=self._watch is not None)
        return again, (self.store, self.definition)

    def __repr__(self) -> str:
        return f"ArtifactSet({self.source}/{self.name} in {self.place})"

    def require(self, identity: dict[str, Any]) -> None:
        """Refuse a run that was made for something else; ANY on its side agrees with anything.

        Names of classes may have changed since, see `identity_differences`.

        Raises:
            CacheMismatch: names each field that differs, both values, and what to do.
        """
        found = identity_differences(self.identity, identity)
        if found:
            raise mismatch(self.place, self.definition, found)

    def shard_range(self, shard: int) -> range:
        """Indices of the frames of a shard.

        Raises:
            ConfigError: there is no such shard.
        """
        return self._parts.span(shard)

    def committed(self) -> frozenset[int]:
        """Shards that exist: with a readable manifest part that carries our fingerprint."""
        return self._catalogue.committed()

    def part(self, shard: int) -> ShardPart:
        """Read the manifest part of a committed shard as it is now.

        Args:
            shard: 0 <= shard < shards

        Returns:
            a row for each index of `shard_range(shard)`, in that order, in units of `FrameRow`; and
            bytes and sha256 of every object that was committed, by the path of its array.

        Raises:
            ConfigError: there is no such shard.
            CacheIncomplete: it is not committed.
            CacheCorrupt: its part is damaged, or has other rows or arrays than the set.
            CacheMismatch: its part belongs to another definition.
            CacheError: its part cannot be read.
        """
        return self._parts.read(shard)

    def writer(self, shard: int) -> ShardWriter:
        """A writer of one shard."""
        self.shard_range(shard)
        return ShardWriter(self.store, self.definition, shard, self._still_defined)

    def discard(self, shard: int) -> bool:
        """Withdraw a shard's commit, so that the next build makes it again; False if none was."""
        self._parts.forget(shard)
        self._forget(shard)
        return self.store.remove(part_path(self.source, self.name, shard))

    def read(self, artifact: str, index: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """One frame's decoded array: uint8 for frames and labels, float32 for the rest.

        Args:
            out: C-contiguous, of that shape and dtype: filled and returned; undefined after an
                error

        Raises:
            ConfigError: the set has no such artifact, or the source no such frame.
            ArtifactError: `out` is of another shape, dtype or order.
            CacheIncomplete: the frame's shard is not committed.
            FrameError: the frame is bad; the message is its reason.
            CacheCorrupt: a checksum fails; names the array and the frame.
        """
        return self._reader(artifact).read(*self._place(index), out)

    def read_window(self, artifact: str, index: int, rows: slice, columns: slice) -> NDArray[Any]:
        """Some cells of one frame's decoded array: `read(...)` cut to these rows and columns.

        Of an artifact in tiles only those that hold such cells are read and checked.

        Raises:
            ConfigError: there are no such cells; or what `read` raises.
        """
        return self._reader(artifact).window(*self._place(index), rows, columns)

    def read_steps(
        self, artifact: str, index: int, rows: slice, columns: slice, out: NDArray[Any]
    ) -> Side:
        """Read some cells for who decodes them elsewhere: as stored, but without prediction.

        Args:
            out: C-contiguous, of the dtype `codec.steps`: filled

        Returns:
            the side arrays of the frame; raises as `read_window`
        """
        return self._reader(artifact).steps(*self._place(index), rows, columns, out)

    def read_frame(self, index: int, artifacts: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return several decoded arrays of one frame; raise what `read` raises."""
        place = self._place(index)
        return {artifact: self._reader(artifact).read(*place) for artifact in artifacts}

    def encoded(self, artifact: str, index: int) -> Encoded:
        """Return one frame's array as it is stored, not decoded; raise what `read` raises."""
        return self._reader(artifact).encoded(*self._place(index))

    def _reader(self, artifact: str) -> ArtifactReader:
        reader = self._readers.get(artifact)
        if reader is None:
            raise ConfigError(f"{self!r} has no {artifact!r}; known: {', '.join(self.arrays)}")
        return reader

    def _place(self, index: int) -> tuple[int, int, int]:
        """Shard, position in it and number of its frames, of a frame that can be used."""
        if not 0 <= index < self.count:
            raise ConfigError(f"{self!r} has frames 0 to {self.count - 1}, not {index}")
        if self._watch is not None:
            self._watch.go_on()
        shard, position = divmod(int(index), self.shard_frames)
        usable = self._parts.held(shard).usable
        if not usable[position]:
            row = self.part(shard).rows[position]
            raise FrameError(f"{self.source}, frame {row.frame_id}: {row.reason}")
        return shard, position, len(usable)

    def rows(self) -> pa.Table:
        """The rows of all committed shards, by index."""
        return self._catalogue.rows()

    def usable(self) -> NDArray[np.int64]:
        """Indices of the committed frames that are not bad, ascending."""
        rows = self.rows()
        usable = rows.filter(pc.equal(rows["status"], "ok"))["index"].to_numpy()
        return np.asarray(usable, np.int64)

    def sizes(self) -> dict[str, int]:
        """Committed bytes of each artifact, its side arrays included."""
        return self._catalogue.sizes()

    def fidelity(self) -> Fidelity:
        """The worst that was measured on a few frames of every committed shard, by artifact."""
        return self._catalogue.fidelity()

    def save_catalogue(self) -> bool:
        """Write what is committed into one file where that spares later readers many; else False.

        Raises:
            CacheUnwritable: no space or no permission.
        """
        return self._catalogue.save()

    def _still_defined(self) -> bool:
        path = f"{set_folder(self.source, self.name)}/zarr.json"
        try:
            document = json_of(self.store.read(path, METADATA_BYTES))
            return bool(document["attributes"][KEY]["fingerprint"] == self.fingerprint)
        except (OSError, ValueError, KeyError, TypeError):
            return False


def mismatch(place: str, on_disk: Definition, found: list[Difference]) -> CacheMismatch:
    """Return the error for a run with another identity than the cache has."""
    width = max(len(difference.field) for difference in found)
    lines = (
        f"  {difference.field:<{width}}{str(difference)[len(difference.field) :]}"
        for difference in found
    )
    return CacheMismatch(
        f"{place}: {on_disk.name!r} on {on_disk.source!r} was built from something else\n"
        + "\n".join(lines)
        + "\n  point cache.path at another folder and run `stillroom cache build RUN.toml`, "
        "or make the run agree with the cache"
        + (_reusable(place) if _only_frames_changed(found) else "")
    )


def _only_frames_changed(found: list[Difference]) -> bool:
    """Return whether only the source differs, other than in classes, which teachers may give."""
    fields = [difference.field for difference in found]
    return all(
        field.startswith("source.") and not field.startswith("source.classes") for field in fields
    )


def _reusable(place: str) -> str:
    return (
        "\n  only the source has changed: in a build with `--set cache.reuse="
        f"{place} --set cache.path=NEW` teachers run on changed and new frames only"
    )
