"""Names by the million: one piece of text, where a Python object each takes 100 bytes."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NUMBERS = re.compile(r"[0-9]+")
CHUNK = 1024
"""Names that are Python objects at a time."""
POOL = pa.system_memory_pool()
"""It gives back what is not needed any more; Arrow's own keeps as much again as a listing takes."""


class Names(Sequence[str]):
    """Names that become Python objects only as they are looked at.

    text: pyarrow.LargeStringArray
    """

    def __init__(self, text: Any) -> None:
        self.text = text

    def __len__(self) -> int:
        return len(self.text)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            found: list[str] = self.text[index].to_pylist()
            return found
        name: str = self.text[int(index)].as_py()
        return name

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from self[start : start + CHUNK]


def text_of(names: Iterable[str]) -> Any:
    """The names as one pyarrow.LargeStringArray."""
    text, ends = bytearray(), array("q", [0])
    for name in names:
        text += name.encode()
        ends.append(len(text))
    return pa.LargeStringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(text))


def natural_key(name: str) -> str:
    """Sort key under which frame 2 precedes frame 10; "1" and "01" have the same.

    A number is written as the character 0, which no name holds and which precedes all others, then
    the count of its digits as one character, then the digits: longer numbers are larger ones.
    """
    return NUMBERS.sub(_number_key, name)


def _number_key(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"\0{chr(len(digits))}{digits}"


def natural_order(names: Names) -> Any:
    """Where the first name of the natural order stands, the second, ...: pyarrow.UInt64Array.

    Names that differ in leading zeros alone follow one another as texts do.
    """
    keys = text_of(map(natural_key, names))
    table = pa.table({"key": keys, "name": names.text})
    order = [("key", "ascending"), ("name", "ascending")]
    return pc.sort_indices(table, sort_keys=order, memory_pool=POOL)


def repeated(text: Any) -> list[str]:
    """The names that stand there more than once, sorted.

    text: pyarrow.LargeStringArray in which equal names are neighbours
    """
    if len(text) < 2:
        return []
    again = text[1:].filter(pc.equal(text[1:], text[:-1]))
    return sorted(again.unique().to_pylist())


def sorted_places(text: Any) -> Any:
    """Where the smallest name stands, the next, ...: pyarrow.UInt64Array."""
    return pc.sort_indices(text, memory_pool=POOL)


def at(places: Any, values: Any) -> Any:
    """The values of a pyarrow array at some places; null where a place is null."""
    return pc.take(values, places, memory_pool=POOL)
