"""Finds what changed on disk since a shard was committed, and names it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stillroom.storage_specs.errors import (
    ArtifactError,
    CacheError,
    CacheIncomplete,
)
from stillroom.storage_specs.files.cautious_reads import METADATA_BYTES, json_of
from stillroom.storage_specs.files.ranged_file import HeldBytes
from stillroom.storage_specs.layout import part_path
from stillroom.storage_specs.manifest import entry_of
from stillroom.storage_specs.shards.array_reader import read_frame
from stillroom.storage_specs.shards.shard_index import MISSING, index_bytes, parse_index
from stillroom.storage_specs.shards.shard_writer import check_values
from stillroom.storage_specs.shards.zarr_arrays import metadata_differences

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.files.object_store import ObjectStore
    from stillroom.storage_specs.layout import ArraySpec
    from stillroom.storage_specs.manifest import ShardPart
    from stillroom.storage_specs.shards.stored_array import StoredArray

Kind = Literal[
    "metadata", "manifest", "missing", "size", "checksum", "index", "chunk", "values", "rows",
    "reading",
]  # fmt: skip
READING: Kind = "reading"
"""Read wrong once, and then right: nothing that is stored is damaged."""


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it was committed.

    Attributes:
        shard: None for a fault of the set's metadata
        array: path of the array, of the group, or of the manifest part
        index: of the frame, where the fault can be laid to one
    """

    source: str
    set_name: str
    shard: int | None
    array: str
    index: int | None
    kind: Kind
    message: str

    def __str__(self) -> str:
        place = self.array if self.shard is None else f"{self.array}, shard {self.shard}"
        if self.index is not None:
            place += f", frame {self.index}"
        return f"{place}: {self.message}"


def verify_shard(of: ArtifactSet, shard: int) -> list[Fault]:
    """Check part, sizes, checksums, chunks and values of one shard; [] if it is not committed."""
    path = part_path(of.source, of.name, shard)
    try:
        part = of.part(shard)
    except CacheIncomplete:
        return []
    except CacheError as error:
        return [Fault(of.source, of.name, shard, path, None, "manifest", str(error))]
    check = _ShardCheck(of, part)
    faults = [
        fault
        for spec in of.definition.arrays
        for stored in of.definition.stored(spec)
        for fault in check.object(spec, stored)
    ]
    # Rows can only be held against objects that are themselves sound.
    return faults or list(check.rows())


def verify_definition(of: ArtifactSet) -> list[Fault]:
    """Check the zarr.json of arrays and bare groups against what the definition makes of them.

    One that is missing is a fault once a shard is committed; before, the set is only begun.
    """
    definition, begun = of.definition, not of.committed()
    faults = []
    for folder in definition.bare_groups():
        if begun and not of.store.exists(f"{folder}/zarr.json"):
            continue
        wrong = _wrong_group(of.store, folder, inner=folder != of.source)
        if wrong:
            faults.append(Fault(of.source, of.name, None, folder, None, "metadata", wrong))
    for spec in definition.arrays:
        for stored in definition.stored(spec):
            path = f"{stored.path}/zarr.json"
            if begun and not of.store.exists(path):
                continue
            try:
                found = of.store.read(path, METADATA_BYTES)
            except OSError as error:
                wrong = f"zarr.json is missing or cannot be read ({error.strerror})"
            else:
                fields = metadata_differences(found, stored, of.count, of.shard_frames)
                wrong = f"zarr.json is changed in {', '.join(fields)}" if fields else ""
            if wrong:
                faults.append(Fault(of.source, of.name, None, stored.path, None, "metadata", wrong))
    return faults


def verify_pixels(sets: Sequence[ArtifactSet]) -> list[Fault]:
    """Find shards with frames that other sets of the same source made from other pixels.

    The rows' crc32c show that they differ, not which is right: every set that has such a frame is
    named, and all of them are made again.

    Args:
        sets: the artifact sets of one source
    """
    checksums: dict[str, set[int]] = defaultdict(set)
    frames: list[tuple[ArtifactSet, int, str]] = []
    for of in sets:
        rows = of.rows()
        for name, checksum in (("frame_id", "crc32c"), ("partner", "partner_crc32c")):
            if name in rows.column_names:  # a row of pairs is of two frames
                columns = rows.select(["index", checksum, name]).to_pydict().values()
                for index, crc32c, frame_id in zip(*columns, strict=True):
                    if crc32c is not None:
                        checksums[frame_id].add(crc32c)
                        frames.append((of, index, frame_id))
    found: dict[tuple[ArtifactSet, int], dict[str, None]] = defaultdict(dict)
    for of, index, frame_id in frames:
        if len(checksums[frame_id]) > 1:
            found[of, index // of.shard_frames][frame_id] = None
    names = ", ".join(sorted({of.name for of, _ in found}))
    return [
        Fault(
            of.source,
            of.name,
            shard,
            part_path(of.source, of.name, shard),
            None,
            "rows",
            f"set {of.name!r}: {len(ids)} frames (first {next(iter(ids))}) were not made from the "
            f"same pixels in all of the sets {names}: the source has changed between them",
        )
        for (of, shard), ids in found.items()
    ]


def _wrong_group(objects: ObjectStore, folder: str, *, inner: bool) -> str | None:
    """Return the fault of a group that only holds others, or None.

    Args:
        inner: False for a source's, which may be the set "frames" and is then checked as that
    """
    try:
        document = json_of(objects.read(f"{folder}/zarr.json", METADATA_BYTES))
    except OSError as error:
        return f"zarr.json is missing or cannot be read ({error.strerror})"
    except ValueError:
        return "zarr.json is changed in JSON" if inner else None
    bare = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    # A source's may also be that of its frames, with attributes.
    wrong = (
        document != bare if inner else _without_attributes(document) != _without_attributes(bare)
    )
    return "zarr.json is no longer that of a group" if wrong else None


def _without_attributes(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    return {key: value for key, value in document.items() if key != "attributes"}


class _ShardCheck:
    def __init__(self, of: ArtifactSet, part: ShardPart) -> None:
        self.of = of
        self.part = part
        self.sizes = np.zeros(len(part.rows), np.int64)

    def object(self, spec: ArraySpec, stored: StoredArray) -> Iterator[Fault]:
        """Faults of one shard object, as near to a frame as they can be laid."""
        entry = self.part.objects.get(stored.path)
        objects, inside = self.of.store, stored.object_path(self.part.shard)
        path = objects.where(inside)
        if entry is None:
            yield self._fault(stored, "manifest", "the manifest part does not name it")
            return
        try:
            content = objects.read(inside, 2 * entry.bytes)  # what is much too long has no end
        except FileNotFoundError:
            yield self._fault(stored, "missing", f"{path} is missing")
            return
        except OSError as error:
            yield self._fault(stored, "missing", f"{path} cannot be read: {error.strerror}")
            return
        if len(content) != entry.bytes:
            wrong = f"{path} has {len(content)} bytes, committed were {entry.bytes}"
            yield self._fault(stored, "size", wrong)
        changed = entry != entry_of(content)
        found = list(self._chunks(spec, stored, content))
        yield from found
        if changed and not found and len(content) == entry.bytes:
            yield self._fault(stored, "checksum", f"{path} is not what was committed")

    def rows(self) -> Iterator[Fault]:
        """Find rows with byte counts that differ from the objects'."""
        for row, size in zip(self.part.rows, self.sizes, strict=True):
            if row.bytes != size:
                yield Fault(
                    self.of.source,
                    self.of.name,
                    self.part.shard,
                    part_path(self.of.source, self.of.name, self.part.shard),
                    row.index,
                    "rows",
                    f"its row says {row.bytes} bytes, its chunks have {size}",
                )

    def _chunks(self, spec: ArraySpec, stored: StoredArray, content: bytes) -> Iterator[Fault]:
        chunks = self.of.shard_frames * stored.chunks
        try:
            index = parse_index(content[-index_bytes(chunks) :], chunks, len(content))
        except ValueError as error:
            yield self._fault(stored, "index", f"its index: {error}")
            return
        file, places = HeldBytes(content), index.reshape(-1).data
        index = index.reshape(self.of.shard_frames, stored.chunks, 2)
        for position, row in enumerate(self.part.rows):
            if (index[position, :, 0] == MISSING).any():
                yield self._fault(stored, "chunk", "its chunk is missing", row.index)
                continue
            self.sizes[position] += int(index[position, :, 1].sum())
            values = np.empty(stored.shape, stored.dtype)
            try:
                read_frame(file, stored, places, position, values)
            except ValueError as error:
                yield self._fault(stored, "chunk", str(error), row.index)
                continue
            wrong = _wrong_values(spec, stored, values) if row.status == "ok" else None
            if wrong is not None:
                yield self._fault(stored, "values", wrong, row.index)

    def _fault(
        self, stored: StoredArray, kind: Kind, message: str, index: int | None = None
    ) -> Fault:
        return Fault(
            self.of.source, self.of.name, self.part.shard, stored.path, index, kind, message
        )


def _wrong_values(spec: ArraySpec, stored: StoredArray, values: NDArray[Any]) -> str | None:
    """Return why no encoder can have made the stored values of a usable frame, or None."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return "holds values that are not finite"
    if stored.attributes["role"] == "scale" and (values < 0).any():
        return "holds a negative scale"
    if spec.kind.geometry == "label":
        try:
            check_values(spec, values)
        except ArtifactError as error:
            return str(error)
    return None
