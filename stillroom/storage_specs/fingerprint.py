"""Identity as JSON: one canonical form, its sha256, and what differs between two of them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ABSENT = "(absent)"
NAMED = ("source", "teacher")  # parts of an identity that state classes
CLASSES = re.compile(rf"({'|'.join(NAMED)})\.classes(\[\d+\])?")


class _Any(str):
    """Written like "auto", but not equal to it for `differences`: a user may mean that word."""

    __slots__ = ()


ANY = _Any("auto")
"""On the run's side, a value that agrees with any value of the cache."""


class Digest(str):
    """A sha256 that, on the run's side, agrees with an older way of taking it as well."""

    older: str

    def __new__(cls, value: str, older: str = "") -> Digest:
        """Take the digest, and what earlier versions wrote for the same content."""
        self = super().__new__(cls, value)
        self.older = older
        return self


@dataclass(frozen=True)
class Difference:
    """One field that a cache and a run do not agree on; ABSENT where a side lacks it."""

    field: str
    cache: Any
    run: Any

    def __str__(self) -> str:
        """`field   cache ...   run ...`, long values cut unless only their ends differ."""
        cache, run = _short(self.cache), _short(self.run)
        if cache == run:
            cache, run = (canonical_json(value).decode() for value in (self.cache, self.run))
        return f"{self.field}   cache {cache}   run {run}"


def canonical_json(document: Any) -> bytes:
    """UTF-8 JSON with sorted keys, no spaces, and whole floats written as integers.

    Raises:
        ConfigError: JSON has no form for a value (NaN, an object, a key that is no string).
    """
    return json.dumps(
        plain(document), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def plain(value: Any, field: str = "") -> Any:
    """The value in plain JSON types: tuples as lists, NumPy scalars as numbers, 127.0 as 127."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        # 127 and 127.0 are one number to whoever wrote the run file.
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, list | tuple):
        return [plain(item, f"{field}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(item, f"{field}.{key}".lstrip(".")) for key, item in value.items()}
    raise ConfigError(f"{field or 'identity'}: {value!r} cannot be written as JSON")


def fingerprint(document: Any) -> str:
    """sha256 of the canonical JSON, as 64 hexadecimal digits; a Digest where it holds Digests."""
    new, old = (
        hashlib.sha256(canonical_json(one)).hexdigest() for one in (document, _older(document))
    )
    return new if new == old else Digest(new, old)


def _older(document: Any) -> Any:
    """The document as versions wrote it that knew only the older form of its Digests."""
    if isinstance(document, dict):
        return {key: _older(each) for key, each in document.items()}
    if isinstance(document, list | tuple):
        return [_older(each) for each in document]
    return document.older if isinstance(document, Digest) else document


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(cache: Any, run: Any) -> list[Difference]:
    """Fields in which two identities differ, by dotted name.

    Lists of one length are compared item by item, others as a whole. ANY on the run's side agrees
    with anything, a Digest also with its older form.
    """
    return list(_differences("", plain(cache), plain(run)))


def identity_differences(cache: dict[str, Any], run: dict[str, Any]) -> list[Difference]:
    """Fields in which the identities of two sets differ; new names of classes are no difference.

    No byte depends on a name: what gives a class another computes nothing anew. A name that has
    moved to another class is a difference: somebody has mistaken their order.
    """
    renamed = {part for part in NAMED if _are_renamed(*(_classes(x, part) for x in (cache, run)))}
    return [
        one
        for one in differences(cache, run)
        if CLASSES.fullmatch(one.field) is None or one.field.partition(".")[0] not in renamed
    ]


def _classes(identity: dict[str, Any], part: str) -> Any:
    section = identity.get(part)
    return section.get("classes") if isinstance(section, dict) else None


def _are_renamed(cache: Any, run: Any) -> bool:
    """Whether two are as many classes, by names or their number, and no name stands elsewhere."""
    counts = [len(each) if isinstance(each, list | tuple) else each for each in (cache, run)]
    if counts[0] != counts[1] or None in counts:
        return False
    if not isinstance(cache, list | tuple) or not isinstance(run, list | tuple):
        return True
    return all(mine == theirs or mine not in cache for mine, theirs in zip(run, cache, strict=True))


def _differences(field: str, cache: Any, run: Any) -> Iterator[Difference]:
    if isinstance(run, _Any) or (isinstance(run, Digest) and cache == run.older):
        return
    if isinstance(cache, dict) and isinstance(run, dict):
        for key in [*cache, *(key for key in run if key not in cache)]:
            inner = f"{field}.{key}" if field else key
            yield from _differences(inner, cache.get(key, ABSENT), run.get(key, ABSENT))
    elif isinstance(cache, list) and isinstance(run, list) and len(cache) == len(run):
        for i, (mine, theirs) in enumerate(zip(cache, run, strict=True)):
            yield from _differences(f"{field}[{i}]", mine, theirs)
    # Not by ==, for which True is 1.
    elif canonical_json(cache) != canonical_json(run):
        yield Difference(field, cache, run)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value).decode()


def _short(value: Any) -> str:
    text = _text(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12] + "..."
    return text if len(text) <= 60 else text[:57] + "..."
