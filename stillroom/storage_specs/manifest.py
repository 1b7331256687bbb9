"""The record that a shard is committed: one Parquet file, a row a frame, sealed by a checksum."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import google_crc32c
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stillroom.storage_specs.errors import ArtifactError, CacheCorrupt
from stillroom.storage_specs.files.cautious_reads import PART_BYTES, json_of
from stillroom.storage_specs.layout import KEY, MAX_SHARD_FRAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stillroom.storage_specs.fidelity import Fidelity

Kind = TypeVar("Kind")
MANIFEST_VERSION = 1  # of parts and catalogues, which version 2 of the format left as they were

SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("frame_id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("valid_height", pa.int32(), nullable=False),
        pa.field("valid_width", pa.int32(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("crc32c", pa.uint32()),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("confidence", pa.float64()),
    ]
)

PAIR_COLUMNS = [
    pa.field("partner", pa.string(), nullable=False),
    pa.field("offset", pa.int32(), nullable=False),
    pa.field("draw", pa.int32()),
    pa.field("partner_crc32c", pa.uint32()),
    pa.field("clipped", pa.int32(), nullable=False),
]
"""The further columns of a set of pairs, such as one of optical flow."""
PAIR_SCHEMA = pa.schema([*SCHEMA, *PAIR_COLUMNS])

# The seal is eight hexadecimal digits at a place that is found without parsing Parquet: crc32c of
# the whole file with these digits as zeros. It lies in the footer, after all data.
SEAL = b'"part_crc32c": "'
OPEN_SEAL = b"00000000"
GROUP_ROWS = 65536
"""Rows of a catalogue that are encoded together."""


@dataclass(frozen=True)
class FrameRow:
    """The manifest's row of one frame.

    Attributes:
        status: "ok", or "bad" with its reason: then the arrays hold only fill values
        reason: why it is bad; of an ok row why its label, or another target, could not be used
        valid_height, valid_width: the canvas area that shows the frame, in pixels from the top left
        bytes: encoded bytes of the frame over all arrays of the set; filled in by the commit
        crc32c: of the canvas frame's pixels, to notice that a source file has changed
        seconds: the producer's time for this frame; the one column that two builds may differ in
        confidence: mean over the valid area, where the set holds confidences
    """

    index: int
    frame_id: str
    status: Literal["ok", "bad"] = "ok"
    reason: str = ""
    valid_height: int = 0
    valid_width: int = 0
    bytes: int = 0
    crc32c: int | None = None
    seconds: float = 0.0
    confidence: float | None = None

    @property
    def bad_label(self) -> bool:
        """Whether the frame can be used, but for its label or another target."""
        return self.status == "ok" and self.reason != ""


@dataclass(frozen=True)
class PairRow(FrameRow):
    """The manifest's row of one pair of frames; `frame_id` is the first of them.

    Attributes:
        partner: id of the second frame
        offset: steps of time from the first to the second, below 0 where the second is earlier
        draw: which of the first frame's neighbours on that side the second is, from 0; None where
            the pair is there as another's way back alone
        partner_crc32c: of the second frame's pixels, as `crc32c` is of the first's
        clipped: pixels whose displacement was beyond what the codec holds, and was cut to it
    """

    partner: str = ""
    offset: int = 0
    draw: int | None = None
    partner_crc32c: int | None = None
    clipped: int = 0


@dataclass(frozen=True)
class ObjectEntry:
    """Size and sha256 of one shard object as it was committed.

    Not crc32c: every chunk ends in its own, and the crc32c of data that ends in its crc32c is a
    constant, so that all objects with the same chunk lengths would have the same one.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardPart:
    """One committed shard.

    Attributes:
        fingerprint: of the set's definition
        objects: by the path of their array
        rows: one a frame, in order of index, `start` to `stop` - 1
        fidelity: the worst of what was measured on a few frames, by artifact
    """

    source: str
    set_name: str
    shard: int
    start: int
    stop: int
    fingerprint: str
    objects: dict[str, ObjectEntry]
    rows: tuple[FrameRow, ...]
    fidelity: Fidelity = field(default_factory=dict)


def entry_of(content: bytes) -> ObjectEntry:
    """The entry of an object with these bytes."""
    return ObjectEntry(len(content), hashlib.sha256(content).hexdigest())


def encode_part(part: ShardPart) -> bytes:
    """The bytes of the part's Parquet file."""
    about = {
        "format_version": MANIFEST_VERSION,
        "source": part.source,
        "set": part.set_name,
        "shard": part.shard,
        "start": part.start,
        "stop": part.stop,
        "fingerprint": part.fingerprint,
        "objects": {path: asdict(entry) for path, entry in part.objects.items()},
        "fidelity": part.fidelity,
        "part_crc32c": OPEN_SEAL.decode(),
    }
    try:
        table = table_of(part.rows)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise ArtifactError(
            f"shard {part.shard} of {part.source}/{part.set_name}: "
            f"a manifest row cannot be written: {error}"
        ) from error
    return sealed([table], lambda: about)


def sealed(
    tables: Iterable[pa.Table], about: Callable[[], dict[str, Any]], *, many: bool = False
) -> bytes:
    """A Parquet file of these rows, the document in its metadata, the seal filled in.

    Args:
        about: the document, asked for after the last table; ends with "part_crc32c": OPEN_SEAL
        tables: those with rows all of `SCHEMA` or all of `PAIR_SCHEMA`
        many: for the rows of many parts: encoded some at a time, so that it takes little memory
    """
    pool = pa.system_memory_pool()  # Arrow's own would keep more than it was asked for
    sink = pa.BufferOutputStream(pool)
    # Without Arrow's copy of the schema the footer holds our JSON, and so the seal, once.
    options = {"compression": "zstd", "store_schema": False, "memory_pool": pool}
    # Dictionaries of columns that hardly repeat double the file, and take most of the memory.
    written = (table for table in tables if table.num_rows or not many)
    first = next(written, SCHEMA.empty_table())
    with pq.ParquetWriter(sink, first.schema, use_dictionary=not many, **options) as writer:
        for table in chain([first], written):
            writer.write_table(table, row_group_size=GROUP_ROWS if many else None)
        writer.add_key_value_metadata({KEY: json.dumps(about())})
    content: bytes = sink.getvalue().to_pybytes()
    place = content.rindex(SEAL) + len(SEAL)
    seal = f"{google_crc32c.value(content):08x}".encode()
    return content[:place] + seal + content[place + len(seal) :]


def decode_part(content: bytes, path: str, frames: int | None = None) -> ShardPart:
    """The part in a file's bytes.

    Args:
        path: named in errors
        frames: how many rows it has to have, if that is known

    Raises:
        CacheCorrupt: a byte differs from what was committed, or this is no manifest part.
    """
    check_seal(content, path)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        _check_claims(file, frames)
        about = json_of(file.schema_arrow.metadata[KEY.encode()])
        words = {name: _typed(about[name], str) for name in ("source", "set", "fingerprint")}
        numbers = {name: _typed(about[name], int) for name in ("shard", "start", "stop")}
        return ShardPart(
            source=words["source"],
            set_name=words["set"],
            **numbers,
            fingerprint=words["fingerprint"],
            objects={
                name: ObjectEntry(_typed(entry["bytes"], int), _typed(entry["sha256"], str))
                for name, entry in _typed(about["objects"], dict).items()
            },
            # Not by Arrow's threads: a process that ends soon after would abort in them.
            rows=tuple(_rows(file.read(use_threads=False))),
            fidelity=_fidelity(about.get("fidelity", {})),  # parts of the first release have none
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CacheCorrupt(_not_a_part(path, str(error))) from error


def _check_claims(file: pq.ParquetFile, frames: int | None) -> None:
    """Hold what the footer claims against what can be, before anything is unpacked (ValueError)."""
    if not any(file.schema_arrow.equals(known) for known in (SCHEMA, PAIR_SCHEMA)):
        raise ValueError("its columns are not those of a manifest part")
    about = file.metadata
    if frames is not None and about.num_rows != frames:
        raise ValueError(f"{about.num_rows} rows, its shard has {frames} frames")
    groups = [about.row_group(number).total_byte_size for number in range(about.num_row_groups)]
    if len(groups) > MAX_SHARD_FRAMES or sum(groups) > PART_BYTES:
        raise ValueError(f"it claims {sum(groups):,} bytes in {len(groups)} groups of rows")


def _typed(value: Any, kind: type[Kind]) -> Kind:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.40} is no {kind.__name__}")
    return value


def _fidelity(found: Any) -> Fidelity:
    return {
        artifact: {key: float(_typed(number, float)) for key, number in _typed(each, dict).items()}
        for artifact, each in _typed(found, dict).items()
    }


def table_of(rows: Iterable[FrameRow]) -> pa.Table:
    """The rows as an Arrow table: of `PAIR_SCHEMA` if the first is a pair's, else of `SCHEMA`."""
    waiting = iter(rows)
    first = list(islice(waiting, 1))
    kind = PairRow if first and isinstance(first[0], PairRow) else FrameRow
    schema = PAIR_SCHEMA if kind is PairRow else SCHEMA
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for row in chain(first, waiting):
        if type(row) is not kind:
            raise ArtifactError(f"row {row.index}: rows of frames and of pairs do not mix in a set")
        for name, values in columns.items():
            values.append(getattr(row, name))
    return pa.table(columns, schema=schema)


def schema_of(table: pa.Table) -> pa.Schema:
    """The schema of a manifest's rows: those of a set of pairs have more columns."""
    return PAIR_SCHEMA if "partner" in table.column_names else SCHEMA


def bad_rows(table: pa.Table) -> list[FrameRow]:
    """The rows, of a table of a manifest, that cannot be used."""
    return list(_rows(table.filter(pc.equal(table["status"], "bad"))))


def bad_labels(table: pa.Table) -> list[FrameRow]:
    """The rows, of a table of a manifest, whose frames can be used, but for a target."""
    return [row for row in _rows(table.filter(pc.not_equal(table["reason"], ""))) if row.bad_label]


def _rows(table: pa.Table) -> Iterator[FrameRow]:
    kind = PairRow if schema_of(table) is PAIR_SCHEMA else FrameRow
    return (kind(**row) for row in table.to_pylist())


def check_seal(content: bytes, path: str) -> None:
    """Refuse a file of which a byte differs from what was written (CacheCorrupt).

    Args:
        path: named in errors
    """
    place = content.rfind(SEAL)
    if place < 0:
        raise CacheCorrupt(_not_a_part(path, "no seal found; it may be cut short"))
    place += len(SEAL)
    seal = content[place : place + len(OPEN_SEAL)]
    opened = content[:place] + OPEN_SEAL + content[place + len(OPEN_SEAL) :]
    if seal != f"{google_crc32c.value(opened):08x}".encode():
        raise CacheCorrupt(_not_a_part(path, "its checksum does not match its bytes"))


def _not_a_part(path: str, why: str) -> str:
    return (
        f"{path}: not a manifest part as it was committed ({why}); its shard counts as not built: "
        "re-run `stillroom cache build RUN.toml`"
    )
