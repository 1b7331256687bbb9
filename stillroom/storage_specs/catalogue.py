"""What is committed of a set, without opening every part of its manifest each time.

A million frames are fifteen thousand parts. The catalogue is one file that holds the rows of many
parts, each with the signature that its file had in the listing; parts whose signature is another,
and parts that it does not know, are read themselves. It is derived: deleting it costs time only,
and whatever is wrong with it counts as not having it.
"""

from __future__ import annotations

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
from stillroom.storage_specs.layout import FORMAT_VERSION, KEY, catalogue_path, part_folder
from stillroom.storage_specs.manifest import OPEN_SEAL, SCHEMA, check_seal, sealed, table_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.storage_specs.fidelity import Fidelity
    from stillroom.storage_specs.files.objects import Objects
    from stillroom.storage_specs.layout import Definition
    from stillroom.storage_specs.manifest import ShardPart

PART_NAME = re.compile(r"(\d{5,})\.parquet")
WORTH_SAVING = 128
"""Parts that were read one by one before a catalogue is written: below that it saves nothing."""


@dataclass(frozen=True)
class Entry:
    """One committed shard.

    signature: of its part's file, as text
    bytes: of its objects, by artifact
    fidelity: as its part has it
    """

    signature: str
    bytes: dict[str, int]
    fidelity: Fidelity


@dataclass(frozen=True)
class _Known:
    """What was found by the last look.

    saved: rows of the catalogue's file, those of parts that have changed since among them
    own: rows of the shards whose parts were read themselves
    """

    entries: dict[int, Entry]
    saved: pa.Table
    own: dict[int, pa.Table]


class Catalogue:
    """The committed shards of a set and their rows, looked up anew with each call.

    Threads may share it: what two of them find out at once, the later one keeps.

    read_parts: the parts of some shards, checked against the set; None for one that is not sound
    """

    def __init__(
        self,
        definition: Definition,
        objects: Objects,
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
        return self._rows(self._looked_up())

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
        known = self._looked_up()
        if len(known.own) < WORTH_SAVING:
            return False
        rows = self._rows(known)
        self._objects.write_whole(self._path, self._encoded(rows, known.entries))
        self._known = _Known(known.entries, rows, {})
        return True

    def _looked_up(self) -> _Known:
        """What is committed by now: only parts that are new or written again are read."""
        listed = self._listed()
        before = self._known
        if before is None:
            # A few parts are read as quickly as a catalogue of them.
            nothing = _Known({}, SCHEMA.empty_table(), {})
            before = (self._loaded() if len(listed) > WORTH_SAVING else None) or nothing
        entries = {k: e for k, e in before.entries.items() if listed.get(k) == e.signature}
        own = {shard: rows for shard, rows in before.own.items() if shard in entries}
        unknown = sorted(listed.keys() - entries.keys())
        for shard, part in zip(unknown, self._read_parts(unknown), strict=True):
            if part is not None:
                entries[shard] = Entry(listed[shard], self._bytes_of(part), part.fidelity)
                own[shard] = table_of(part.rows)
        self._known = _Known(entries, before.saved, own)
        return self._known

    def _rows(self, known: _Known) -> pa.Table:
        saved = sorted(known.entries.keys() - known.own.keys())
        if not known.own and sum(map(self._frames_of, saved)) == known.saved.num_rows:
            return known.saved  # as most often; a filter would copy it
        shard_of = pc.divide(known.saved["index"], self._definition.shard_frames)
        true = known.saved.filter(pc.is_in(shard_of, value_set=pa.array(saved, pa.int64())))
        if not known.own:
            return true
        return pa.concat_tables([true, *known.own.values()]).sort_by("index").combine_chunks()

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
        """What the catalogue on disk says, if it is whole and of this set."""
        with suppress(CacheError, OSError, pa.ArrowException, ValueError, KeyError, TypeError):
            content = self._objects.read(self._path)
            check_seal(content, self._path)
            table = pq.read_table(pa.BufferReader(content))
            about = json.loads(table.schema.metadata[KEY.encode()])
            if about["fingerprint"] == self._definition.fingerprint:
                entries = {int(shard): Entry(*entry) for shard, entry in about["parts"].items()}
                return _Known(entries, table.cast(SCHEMA), {})
        return None

    def _encoded(self, rows: pa.Table, entries: dict[int, Entry]) -> bytes:
        about = {
            "format_version": FORMAT_VERSION,
            "source": self._definition.source,
            "set": self._definition.name,
            "fingerprint": self._definition.fingerprint,
            "parts": {str(shard): list(vars(entry).values()) for shard, entry in entries.items()},
            "part_crc32c": OPEN_SEAL.decode(),
        }
        return sealed(rows, about)

    def _bytes_of(self, part: ShardPart) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for spec in self._definition.arrays:
            for stored in self._definition.stored(spec):
                entry = part.objects.get(stored.path)
                sizes[spec.artifact] = sizes.get(spec.artifact, 0) + (entry.bytes if entry else 0)
        return sizes
