"""Hugging Face data sets on disk: the Parquet files of the hub, and what `save_to_disk` wrote.

Arrow reads both: the package `datasets` is not needed. A frame can be read at any time and by any
thread; of Parquet, the group of rows around it is decoded with it and kept for those that follow.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stillroom.stages.sources.listing import Listing
from stillroom.stages.sources.names import at, text_of
from stillroom.stages.sources.shard_settings import ShardSettings, find_shards, source_of
from stillroom.storage_specs.errors import ConfigError, FrameError, SourceUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.sources.file_source import FileSource

SUFFIXES = frozenset({".arrow", ".parquet"})
DERIVED = "cache-"
"""How names of files begin that the package keeps beside a data set, of what was made from it."""
OPEN_TABLES = 8
_LOCK = threading.Lock()


class HfDatasetSettings(ShardSettings):
    """Frames in the rows of Parquet or Arrow files.

    Attributes:
        image: the column of images.
        label: that of label maps.
    """

    kind: Literal["hf_dataset"] = "hf_dataset"
    image: str = "image"


@dataclass(frozen=True)
class Cell:
    """An encoded image in a row of a file."""

    name: str
    table: Path
    column: str
    row: int

    def read_bytes(self) -> bytes:
        """Read it.

        Raises:
            OSError: the file cannot be read.
            FrameError: there are no bytes in it.
        """
        version = _version(self.table)
        with _LOCK:  # threads wait for a group of rows, and do not all decode it
            try:
                value = _opened(self.table, version).value(self.column, self.row)
            except (ValueError, LookupError) as fault:
                raise SourceUnavailable(
                    f"{self.table} has changed or is damaged: {fault}; fetch it again"
                ) from fault
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise FrameError(f"{self.name}: column {self.column!r} has no bytes there")
        return data

    def __str__(self) -> str:
        return f"{self.name} of {self.table}"


@dataclass(frozen=True, eq=False)
class Cells:
    """A column of files for the frames of a listing.

    Attributes:
        tables: the files.
        column: its name.
        pattern: which file a frame is in: Int32Array.
        rows: its row there: Int64Array.
        sizes: bytes of the file: Int64Array.
    """

    tables: tuple[Path, ...]
    column: str
    pattern: Any
    rows: Any
    sizes: Any

    def take(self, indices: Any) -> Cells:
        """Return those at some indices."""
        places = (at(indices, each) for each in (self.pattern, self.rows, self.sizes))
        return Cells(self.tables, self.column, *places)

    def file(self, index: int, frame_id: str) -> Cell:
        """Return a frame's cell."""
        table = self.tables[self.pattern[index].as_py()]
        row = self.rows[index].as_py()
        return Cell(f"{table.name} row {row}", table, self.column, row)

    def called(self, index: int, frame_id: str) -> tuple[str, ...]:
        """Return the id: a row has no other name."""
        return (frame_id,)


def open_hf_dataset(config: HfDatasetSettings) -> FileSource:
    """List the rows of all files; a frame is named by its file and its row, from 0.

    Raises:
        ConfigError: there is no file, or no row, or a file is damaged or has no such column.
    """
    shards = find_shards(config, SUFFIXES, left_out=DERIVED)
    columns = [config.image] if config.label is None else [config.image, config.label]
    counts = np.array([_rows(path, columns) for _, path in shards], np.int64)
    if not counts.any():
        raise ConfigError(f"{config.root}: its {len(shards)} files have no rows; fetch them again")
    which = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
    rows = np.concatenate([np.arange(count) for count in counts])
    sizes = np.array([path.stat().st_size for _, path in shards], np.int64)[which]
    names = [name.rpartition(".")[0] for name, _ in shards]
    ids = text_of(f"{names[n]}/{row:06d}" for n, row in zip(which, rows, strict=True))
    images, *labels = (
        Cells(
            tuple(path for _, path in shards), column, pa.array(which), pa.array(rows),
            pa.array(sizes),
        )
        for column in columns
    )  # fmt: skip
    return source_of(config, Listing(ids, images, labels[0] if labels else None))


def _rows(path: Path, columns: list[str]) -> int:
    """Count the rows of a file.

    Raises:
        ConfigError: it cannot be read, or lacks a column.
    """
    try:
        table = _opened(path, _version(path))
    except (OSError, pa.ArrowInvalid) as fault:
        raise ConfigError(f"{path} cannot be read: {fault}; fetch it again") from fault
    for column in columns:
        if column not in table.columns:
            raise ConfigError(
                f"{path} has no column {column!r}; name as `image` and `label` some of its own: "
                f"{', '.join(table.columns)}"
            )
    return len(table)


def _version(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


@lru_cache(OPEN_TABLES)
def _opened(path: Path, version: tuple[int, int]) -> _ParquetFile | _ArrowFile:
    return (_ParquetFile if path.suffix == ".parquet" else _ArrowFile)(path)


class _ParquetFile:
    """The rows of a Parquet file, of which the last group that was asked for is kept."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        metadata = self._file.metadata
        groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(groups)])
        self._kept: dict[str, tuple[int, Any]] = {}  # by column
        self.columns: list[str] = self._file.schema_arrow.names

    def __len__(self) -> int:
        return int(self._starts[-1])

    def value(self, column: str, row: int) -> Any:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if self._kept.get(column, (None, None))[0] != group:
            rows = self._file.read_row_group(group, columns=[column])[column]
            self._kept[column] = (group, rows)
        return self._kept[column][1][row - int(self._starts[group])].as_py()


class _ArrowFile:
    """The rows of an Arrow file, mapped into memory: of them, what is asked for is read."""

    def __init__(self, path: Path) -> None:
        mapped = pa.memory_map(str(path))
        try:
            self._table = pa.ipc.open_stream(mapped).read_all()
        except pa.ArrowInvalid:
            self._table = pa.ipc.open_file(mapped).read_all()
        self.columns: list[str] = self._table.schema.names

    def __len__(self) -> int:
        return len(self._table)

    def value(self, column: str, row: int) -> Any:
        return self._table[column][row].as_py()
