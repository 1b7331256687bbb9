"""The committed rows of a set, without opening every part of its manifest each time.

A million frames are fifteen thousand parts. The catalogue is one file that holds the rows of many
parts, each with the signature that its file had in the listing. Parts with another signature, and
parts that are not in it, are read themselves. It is derived: deleting it costs time only, and a
damaged catalogue is ignored.
"""

from __future__ import annotations

import itertools
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stillroom.storage_specs.errors import CacheError
from stillroom.storage_specs.fidelity import worst
from stillroom.storage_specs.layout import KEY, catalogue_path, part_folder
from stillroom.storage_specs.manifest import (
    MANIFEST_VERSION,
    OPEN_SEAL,
    SCHEMA,
    check_seal,
    schema_of,
    sealed,
    table_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from typing import Any

    from stillroom.storage_specs.fidelity import Fidelity
    from stillroom.storage_specs.files.object_store import ObjectStore
    from stillroom.storage_specs.layout import Definition
    from stillroom.storage_specs.manifest import ShardPart

PART_NAME = re.compile(r"(\d{5,})\.parquet")
WORTH_SAVING = 128
"""Parts that were read one by one before a catalogue is written: below that it saves nothing."""
READ_TOGETHER = 64
"""Parts that are held as Python objects at a time."""
MANY_CHUNKS = 1024
"""Pieces of a table that are put together: tables that grow by a shard at a time become slow."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One committed shard.

    Attributes:
        signature: of its part's file, as text
        bytes: of its objects, by artifact
        fidelity: as its part has it
    """

    signature: str
    bytes: dict[str, int]
    fidelity: Fidelity


@dataclass(frozen=True)
class _Known:
    """The result of the last listing.

    Attributes:
        entries: by shard
        rows: of these shards, by index
        unsaved: those of them that are not in the catalogue's file
    """

    entries: dict[int, Entry]
    rows: pa.Table
    unsaved: frozenset[int]


class Catalogue:
    """The committed shards of a set and their rows, listed anew with each call.

    Threads may share it: of two results found at once, the later one is kept.

    Args:
        read_parts: the parts of some shards, checked against the set; None for one that is not
            sound
    """

    def __init__(
        self,
        definition: Definition,
        objects: ObjectStore,
        read_parts: Callable[[list[int]], list[ShardPart | None]],
    ) -> None:
        self._definition = definition
        self._objects = objects
        self._read_parts = read_parts
        self._path = catalogue_path(definition.source, definition.name)
        self._known: _Known | None = None

    def committed(self) -> frozenset[int]:
        """Shards that are committed now."""
        return frozenset(self._looked_up().entries)

    def rows(self) -> pa.Table:
        """The rows of the committed shards, by index."""
        return self._looked_up().rows

    def sizes(self) -> dict[str, int]:
        """Committed bytes of each artifact."""
        sizes = {spec.artifact: 0 for spec in self._definition.arrays}
        for entry in self._looked_up().entries.values():
            for artifact, size in entry.bytes.items():
                sizes[artifact] += size
        return sizes

    def fidelity(self) -> Fidelity:
        """The worst that was measured in any committed shard."""
        found: Fidelity = {}
        for entry in self._looked_up().entries.values():
            found = worst(found, entry.fidelity)
        return found

    def save(self) -> bool:
        """Write the catalogue where it would save a later reader work; whether it was written.

        Raises:
            CacheUnwritable: no space or no permission.
        """
        listed, before, entries = self._compared()
        unknown = listed.keys() - entries.keys()
        if len(unknown) + len(before.unsaved & entries.keys()) < WORTH_SAVING:
            return False
        found: dict[int, Entry] = {}
        kept = self._rows_of(entries.keys(), before.rows)
        tables: Iterable[pa.Table] = itertools.chain([kept], self._read(listed, entries, found))
        if entries and unknown and min(unknown) < max(entries):  # these have to be put in order
            known = self._looked_up()
            tables, entries = [known.rows], known.entries
        self._known = None  # rows are written as they are read: all of them are never held
        content = sealed(tables, lambda: self._about(entries | found), many=True)
        self._objects.write_whole(self._path, content)
        return True

    def _looked_up(self) -> _Known:
        """Return what is committed by now; read only parts that are new or written again."""
        listed, before, entries = self._compared()
        found: dict[int, Entry] = {}
        kept = self._rows_of(entries.keys(), before.rows)
        rows = _by_index([kept, *self._read(listed, entries, found)])
        unsaved = (before.unsaved & entries.keys()) | found.keys()
        self._known = _Known(entries | found, rows, unsaved)
        return self._known

    def _compared(self) -> tuple[dict[int, str], _Known, dict[int, Entry]]:
        """Signatures of the parts that are there; what was known; what of that is still so."""
        listed = self._listed()
        before = self._known
        if before is None:
            # A few parts are read as quickly as a catalogue of them.
            nothing = _Known({}, SCHEMA.empty_table(), frozenset())
            before = (self._loaded() if len(listed) > WORTH_SAVING else None) or nothing
        entries = {k: e for k, e in before.entries.items() if listed.get(k) == e.signature}
        return listed, before, entries

    def _read(
        self, listed: Mapping[int, str], entries: Mapping[int, Entry], found: dict[int, Entry]
    ) -> Iterator[pa.Table]:
        """The rows of the parts that have no entry, by index, some at a time.

        Args:
            found: their entries are put here
        """
        unknown = sorted(listed.keys() - entries.keys())
        for start in range(0, len(unknown), READ_TOGETHER):
            some = unknown[start : start + READ_TOGETHER]
            parts = [part for part in self._read_parts(some) if part is not None]
            for part in parts:
                signature = listed[part.shard]
                found[part.shard] = Entry(signature, self._bytes_of(part), part.fidelity)
            yield table_of(row for part in parts for row in part.rows)

    def _rows_of(self, shards: Collection[int], rows: pa.Table) -> pa.Table:
        if sum(map(self._frames_of, shards)) == rows.num_rows:
            return rows  # as most often; a filter would copy it
        shard_of = pc.divide(rows["index"], self._definition.shard_frames)
        return rows.filter(pc.is_in(shard_of, value_set=pa.array(sorted(shards), pa.int64())))

    def _frames_of(self, shard: int) -> int:
        start = shard * self._definition.shard_frames
        return min(self._definition.shard_frames, self._definition.count - start)

    def _listed(self) -> dict[int, str]:
        folder = part_folder(self._definition.source, self._definition.name)
        shards = -(-self._definition.count // self._definition.shard_frames)
        listed = {}
        for file in self._objects.files(folder):
            name = PART_NAME.fullmatch(file.name)
            if name is not None and int(name[1]) < shards:
                listed[int(name[1])] = str(file.signature)
        return listed

    def _loaded(self) -> _Known | None:
        """Read the catalogue on disk; None if it is damaged or of another set."""
        with suppress(CacheError, OSError, pa.ArrowException, ValueError, KeyError, TypeError):
            content = self._objects.read(self._path)
            check_seal(content, self._path)
            table = pq.read_table(pa.BufferReader(content))
            about = json.loads(table.schema.metadata[KEY.encode()])
            if about["fingerprint"] == self._definition.fingerprint:
                entries = {int(shard): Entry(*entry) for shard, entry in about["parts"].items()}
                return _Known(entries, table.cast(schema_of(table)), frozenset())
        return None

    def _about(self, entries: Mapping[int, Entry]) -> dict[str, Any]:
        return {
            "format_version": MANIFEST_VERSION,
            "source": self._definition.source,
            "set": self._definition.name,
            "fingerprint": self._definition.fingerprint,
            "parts": {
                str(shard): [entry.signature, entry.bytes, entry.fidelity]
                for shard, entry in entries.items()
            },
            "part_crc32c": OPEN_SEAL.decode(),
        }

    def _bytes_of(self, part: ShardPart) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for spec in self._definition.arrays:
            for stored in self._definition.stored(spec):
                entry = part.objects.get(stored.path)
                sizes[spec.artifact] = sizes.get(spec.artifact, 0) + (entry.bytes if entry else 0)
        return sizes


def _by_index(tables: list[pa.Table]) -> pa.Table:
    """One table of tables that are ordered by index and have no index in common."""
    filled = [table for table in tables if table.num_rows]
    if len(filled) < 2:
        return filled[0] if filled else tables[0]
    rows = pa.concat_tables(filled)  # copies nothing
    if any(a["index"][-1].as_py() > b["index"][0].as_py() for a, b in itertools.pairwise(filled)):
        rows = rows.sort_by("index")
    return rows.combine_chunks() if rows["index"].num_chunks > MANY_CHUNKS else rows
