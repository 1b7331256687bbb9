"""Fills one shard: every frame put or called bad, encoded as it comes, committed as a whole."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.codecs.codec import Encoded
from stillroom.storage_specs.errors import ArtifactError, CacheCorrupt, CacheMismatch
from stillroom.storage_specs.fidelity import measured, worst
from stillroom.storage_specs.files.cautious_reads import PART_BYTES
from stillroom.storage_specs.files.durable_files import unwritable
from stillroom.storage_specs.layout import part_path, set_folder
from stillroom.storage_specs.manifest import (
    FrameRow,
    ObjectEntry,
    ShardPart,
    decode_part,
    encode_part,
    entry_of,
)
from stillroom.storage_specs.shards.shard_chunks import chunks_of, shard_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from stillroom.storage_specs.fidelity import Fidelity
    from stillroom.storage_specs.files.object_store import ObjectStore
    from stillroom.storage_specs.layout import ArraySpec, Definition
    from stillroom.storage_specs.shards.stored_array import StoredArray


LOOKS = 2
"""At a committed shard before it is withdrawn: a store may answer wrong once."""
MEASURED = 4
"""Frames of a shard on which the fidelity of what is stored is measured."""


class ShardWriter:
    """One shard in the making; nothing is on disk before `commit`.

    It holds compressed chunks only. Threads may put frames at the same time, in any order.

    Args:
        still_defined: whether the set on disk is still the one this shard is made for
    """

    def __init__(
        self,
        objects: ObjectStore,
        definition: Definition,
        shard: int,
        still_defined: Callable[[], bool],
    ) -> None:
        self.objects = objects
        self.definition = definition
        self.shard = shard
        self.start = shard * definition.shard_frames
        self.stop = min(self.start + definition.shard_frames, definition.count)
        self._still_defined = still_defined
        self._rows: dict[int, FrameRow] = {}
        self._measured = range(self.start, self.stop, -(-(self.stop - self.start) // MEASURED))
        self._fidelity: Fidelity = {}
        self._taking = threading.Lock()
        self._chunks: dict[int, dict[str, tuple[bytes, ...]]] = {}  # by frame and array
        self._stored = [s for spec in definition.arrays for s in definition.stored(spec)]

    def put(self, row: FrameRow, arrays: Mapping[str, NDArray[Any] | Encoded]) -> None:
        """Encode one frame's arrays, keyed by artifact; one that is encoded already is kept so.

        Raises:
            ArtifactError: an array is missing, foreign, of another shape or dtype, or its values
                do not fit; nothing of the frame is kept then, and it may be called bad instead.
        """
        self._check_row(row, "ok")
        specs = {spec.artifact: spec for spec in self.definition.arrays}
        if arrays.keys() != specs.keys():
            raise ArtifactError(
                f"frame {row.frame_id}: expected arrays {sorted(specs)}, got {sorted(arrays)}"
            )
        chunks: dict[str, tuple[bytes, ...]] = {}
        found: Fidelity = {}
        for artifact, spec in specs.items():
            try:
                result = self._encode(spec, arrays[artifact])
                if row.index in self._measured:
                    found |= _measured(spec, arrays[artifact], result)
            except ArtifactError as error:
                raise ArtifactError(f"{artifact}, frame {row.frame_id}: {error}") from error
            values, *sides = self.definition.stored(spec)
            chunks[values.path] = chunks_of(values, result.values)
            for side in sides:
                chunks[side.path] = chunks_of(side, result.side[side.attributes["role"]])
        with self._taking:
            self._check_row(row, "ok")
            self._chunks[row.index] = chunks
            self._fidelity = worst(self._fidelity, found)
            self._rows[row.index] = row

    def _encode(self, spec: ArraySpec, array: NDArray[Any] | Encoded) -> Encoded:
        if not isinstance(array, Encoded):
            check_values(spec, array)
            return spec.codec.encode(array)
        values, *sides = self.definition.stored(spec)
        given: dict[str, NDArray[Any] | None] = {values.path: array.values}
        given |= {side.path: array.side.get(side.attributes["role"]) for side in sides}
        for stored in (values, *sides):
            one = given[stored.path]
            if one is None or (one.shape, one.dtype) != (stored.shape, np.dtype(stored.dtype)):
                raise ArtifactError(f"{stored.path}: expected {stored.dtype} {stored.shape}")
        return array

    def bad(self, row: FrameRow) -> None:
        """Record a frame that cannot be used, with its reason; its arrays hold fill values."""
        with self._taking:
            self._check_row(row, "bad")
            self._rows[row.index] = row

    def commit(self) -> ShardPart:
        """Write the objects, then the manifest part; the shard exists from that moment on.

        A shard that is committed and whole already is left as it is.

        Raises:
            ArtifactError: frames were neither put nor called bad.
            CacheMismatch: the set on disk is no longer the one that this shard was made for.
            CacheUnwritable: no space or no permission; the shard does not exist, the rest is kept.
        """
        missing = [i for i in range(self.start, self.stop) if i not in self._rows]
        if missing:
            raise ArtifactError(
                f"shard {self.shard} of {self._name}: {len(missing)} frames were neither put nor "
                f"called bad, first {missing[0]}"
            )
        # Two attempts with a teacher that is not deterministic must not mix their objects.
        group = set_folder(self.definition.source, self.definition.name)
        with self.objects.locked(f"{group}/zarr.json", self.shard):
            return self._commit_alone()

    def _commit_alone(self) -> ShardPart:
        if not self._still_defined():
            raise CacheMismatch(
                f"{self.objects.where('')}: {self._name} was removed or redefined while shard "
                f"{self.shard} was made; re-run `stillroom cache build RUN.toml`"
            )
        committed = self._committed()
        if committed is not None:
            return committed
        part = self._write_objects()
        self.objects.write_whole(self._part_path, encode_part(part))
        return part

    def _write_objects(self) -> ShardPart:
        definition = self.definition
        objects: dict[str, ObjectEntry] = {}
        sizes = np.zeros(self.stop - self.start, np.int64)
        for stored in self._stored:
            frames = self._frames_of(stored)
            sizes += [sum(map(len, chunks)) for chunks in frames]
            content = shard_object(stored, definition.shard_frames, frames)
            self.objects.write_whole(stored.object_path(self.shard), content)
            objects[stored.path] = entry_of(content)
        rows = (self._rows[i] for i in range(self.start, self.stop))
        return ShardPart(
            source=definition.source,
            set_name=definition.name,
            shard=self.shard,
            start=self.start,
            stop=self.stop,
            fingerprint=definition.fingerprint,
            objects=objects,
            fidelity=self._fidelity,
            rows=tuple(
                replace(row, bytes=int(size)) for row, size in zip(rows, sizes, strict=True)
            ),
        )

    def _frames_of(self, stored: StoredArray) -> list[tuple[bytes, ...]]:
        """One array's chunks of every frame; those of bad ones hold fill values."""
        bad = self._chunks.keys() != self._rows.keys()
        blank = chunks_of(stored, np.full(stored.shape, stored.fill, stored.dtype)) if bad else ()
        every = (self._chunks.get(index) for index in range(self.start, self.stop))
        return [blank if chunks is None else chunks[stored.path] for chunks in every]

    def _committed(self) -> ShardPart | None:
        """The part on disk if all that it names is whole; else what is left of it is withdrawn."""
        for _ in range(LOOKS):
            try:
                content = self.objects.read(self._part_path, PART_BYTES)
                part = decode_part(content, self._part_path, self.stop - self.start)
            except FileNotFoundError:
                return None
            except CacheCorrupt:
                continue
            except OSError as error:
                raise unwritable(error, self.objects.where(self._part_path), 0) from error
            if part.fingerprint == self.definition.fingerprint and all(
                object_is_whole(self.objects, stored, part) for stored in self._stored
            ):
                return part
        # First withdraw the record, so that a crash leaves no record of objects that are new.
        self.objects.remove(self._part_path)
        return None

    def _check_row(self, row: FrameRow, status: str) -> None:
        if not self.start <= row.index < self.stop:
            raise ArtifactError(
                f"frame {row.index} is not in shard {self.shard} of {self._name} "
                f"({self.start} to {self.stop - 1})"
            )
        if row.index in self._rows:
            raise ArtifactError(f"frame {row.index} of {self._name} was given twice")
        if row.status != status or (status == "bad" and not row.reason):
            raise ArtifactError(
                f"frame {row.index} of {self._name}: put() takes rows with status 'ok', "
                f"bad() rows with status 'bad' and a reason; got {row.status!r}, {row.reason!r}"
            )

    @property
    def _name(self) -> str:
        return f"{self.definition.source}/{self.definition.name}"

    @property
    def _part_path(self) -> str:
        return part_path(self.definition.source, self.definition.name, self.shard)


def _measured(spec: ArraySpec, given: NDArray[Any] | Encoded, encoded: Encoded) -> Fidelity:
    """Measure the errors of an array; empty for one that came encoded, or is kept as bytes."""
    if isinstance(given, Encoded) or spec.kind.dtype == "uint8":
        return {}
    return {spec.artifact: measured(spec.codec, given, encoded, spec.kind.fidelity)}


def check_values(spec: ArraySpec, array: NDArray[Any]) -> None:
    """Refuse an array of another shape or kind than its spec, or a label that is no class.

    Raises:
        ArtifactError: with what was expected and what was found.
    """
    if array.shape != spec.shape:
        raise ArtifactError(f"expected shape {spec.shape}, got {array.shape}")
    if (spec.kind.dtype == "uint8") != (array.dtype == np.uint8):
        raise ArtifactError(f"expected {spec.kind.dtype}, got {array.dtype}")
    classes = spec.attributes.get("classes")
    if spec.kind.geometry == "label" and isinstance(classes, list):
        stray = array[(array >= len(classes)) & (array != IGNORE)]
        if stray.size:
            raise ArtifactError(
                f"{stray.size} pixels carry {int(stray[0])}, which is neither a class "
                f"(0 to {len(classes) - 1}) nor {IGNORE}"
            )


def object_is_whole(objects: ObjectStore, stored: StoredArray, part: ShardPart) -> bool:
    """Return whether an array's object has the size and sha256 that its part recorded."""
    entry = part.objects.get(stored.path)
    if entry is None:
        return False
    try:
        content = objects.read(stored.object_path(part.shard), entry.bytes)
    except OSError:
        return False
    return entry == entry_of(content)
