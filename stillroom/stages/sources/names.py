"""Millions of names as one Arrow text, where a Python string each would take 100 bytes."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NUMBERS = re.compile(r"[0-9]+")
CHUNK = 1024  # names that are Python strings at a time
POOL = pa.system_memory_pool()  # Arrow's own pool keeps as much again as a listing takes


class Names(Sequence[str]):
    """A pyarrow.LargeStringArray as a sequence of strings, each made when it is read."""

    def __init__(self, text: Any) -> None:
        self.text = text

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.text[index].to_pylist()
        return self.text[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self[start : start + CHUNK]


def text_of(names: Iterable[str]) -> Any:
    """Return the names as one pyarrow.LargeStringArray."""
    text, ends = bytearray(), array("q", [0])
    for name in names:
        text += name.encode()
        ends.append(len(text))
    return pa.LargeStringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(text))


def natural_key(name: str) -> str:
    """Return a sort key under which frame 2 precedes frame 10; "1" and "01" have the same.

    A number is written as the character 0, which no name holds and which precedes all others, then
    the count of its digits as one character, then the digits: longer numbers are larger ones.
    """
    return NUMBERS.sub(_number_key, name)


def _number_key(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"\0{chr(len(digits))}{digits}"


def natural_order(names: Names) -> Any:
    """Return the indices that put names into natural order: pyarrow.UInt64Array.

    Names that differ in leading zeros alone follow one another as texts do.
    """
    keys = text_of(map(natural_key, names))
    table = pa.table({"key": keys, "name": names.text})
    order = [("key", "ascending"), ("name", "ascending")]
    return pc.sort_indices(table, sort_keys=order, memory_pool=POOL)


def text_order(text: Any) -> Any:
    """Return the indices that sort an Arrow text: pyarrow.UInt64Array."""
    return pc.sort_indices(text, memory_pool=POOL)


def at(indices: Any, values: Any) -> Any:
    """Return the values of a pyarrow array at some indices; null where an index is null."""
    return pc.take(values, indices, memory_pool=POOL)


def repeated(text: Any) -> list[str]:
    """Return the names that an Arrow text, in which equal ones are neighbours, holds twice."""
    if len(text) < 2:
        return []
    again = text[1:].filter(pc.equal(text[1:], text[:-1]))
    return sorted(again.unique().to_pylist())
