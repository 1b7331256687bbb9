"""Writing a run file: the TOML of a run document."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

BARE = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(document: Mapping[str, Any]) -> str:
    """Return a run document as TOML that reads back as the same document.

    Args:
        document: of what TOML has but dates: tables, lists, texts, numbers and booleans
    """
    values = {key: one for key, one in document.items() if not isinstance(one, dict)}
    tables = {key: one for key, one in document.items() if isinstance(one, dict)}
    parts = [_lines(values)] if values else []
    parts += [f"[{_key(name)}]\n{_lines(table)}" for name, table in tables.items()]
    return "\n".join(parts)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_value(one)}\n" for key, one in table.items())


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # "inf" and "nan" too, which JSON spells otherwise
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
