"""The faults of a checked document, in the words of whoever wrote it: places, nearest names."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel, ValidationError

PAIRS = {
    "canvas": "[height, width] (two numbers)",
    "crop": "[height, width] (two numbers)",
    "scale": "[lowest, highest] (two numbers)",
}


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """A line for every fault; those of one value that may be of several types share theirs."""
    schema = model.model_json_schema()
    found: list[dict[str, Any]] = [dict(fault) for fault in error.errors()]
    misspelt = _misspelt(schema, found)
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for position, fault in enumerate(found):
        if fault["type"] == "missing" and fault["loc"] in misspelt:
            continue
        loc = fault["loc"][:-1] if _is_short(fault) else fault["loc"]
        place = _locate(schema, loc)
        key = (place.name, -1 if place.is_union or _is_short(fault) else position)
        groups.setdefault(key, []).append(fault)
    return [f"{name or 'file'}: {_describe(schema, group)}" for (name, _), group in groups.items()]


def nearest(name: str, known: Sequence[str]) -> str:
    """What somebody may have meant, to be put behind a fault; else what there is."""
    close = _closest(name, known)
    if close is not None:
        return f"; did you mean {close!r}?"
    return f"; known: {', '.join(known)}" if known else ""


def hint(name: str, known: Sequence[str]) -> str:
    """What somebody may have meant, and all that there is."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; {f'did you mean {near[0]!r}? ' if near else ''}known: {', '.join(known)}"


def _closest(name: str, known: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)


def listing(faults: Sequence[str]) -> str:
    """So many faults, a line each."""
    lines = "\n".join(f"  {fault}" for fault in faults)
    return f"{len(faults)} fault{'s' * (len(faults) > 1)}\n{lines}"


@dataclass
class _Place:
    """Where pydantic found a fault, in the words of the run file.

    name: dotted, without the tags by which pydantic tells the kinds of a section apart
    schema: what is allowed there, {} where nothing is
    is_union: whether the value may be of several types, each of which reports its own fault
    """

    name: str
    schema: Any
    is_union: bool = False


def _misspelt(schema: Any, faults: Sequence[dict[str, Any]]) -> set[tuple[int | str, ...]]:
    """Places of the keys that unknown ones were meant to be: these are faults that are told."""
    return {
        (*fault["loc"][:-1], meant)
        for fault in faults
        if fault["type"] == "extra_forbidden"
        if (meant := _closest(str(fault["loc"][-1]), _keys(schema, fault))) is not None
    }


def _keys(schema: Any, fault: dict[str, Any]) -> list[str]:
    """What there is in the section that a fault lies in."""
    return list(_locate(schema, fault["loc"][:-1]).schema.get("properties", {}))


def _is_short(fault: dict[str, Any]) -> bool:
    """Whether it says that a list ends too early, which is a fault of the list."""
    return fault["type"] == "missing" and isinstance(fault["loc"][-1], int)


def _describe(schema: Any, group: list[dict[str, Any]]) -> str:
    """What was expected, and what was found."""
    fault = min(group, key=lambda fault: len(fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown key{nearest(str(fault['loc'][-1]), _keys(schema, fault))}"
    if _is_short(fault):
        count = _locate(schema, fault["loc"][:-1]).schema.get("minItems", "more")
        wanted = PAIRS.get(str(fault["loc"][-2]), f"{count} values")
        return f"expected {wanted}; got {fault['input']!r}"
    if fault["type"] == "missing":
        return "required, but not given"
    if fault["type"].startswith("union_tag_"):
        return _describe_tag(schema, fault)
    expected = dict.fromkeys(each["msg"].removeprefix("Value error, ") for each in group)
    said = ", or: ".join(expected)
    if isinstance(fault.get("input"), dict):
        return said  # the place names the section, and whoever wrote it can see the rest
    got = repr(fault.get("input"))
    return f"{said}; got {got if len(got) < 80 else got[:77] + '...'}"


def _describe_tag(schema: Any, fault: dict[str, Any]) -> str:
    """Of a section whose `kind` or `name` is missing or none that there is."""
    known = list(_locate(schema, fault["loc"]).schema["discriminator"]["mapping"])
    key, name = fault["ctx"]["discriminator"].strip("'"), fault["ctx"].get("tag")
    every = f"known: {', '.join(known)}"
    if name is None:
        return f"give its `{key}`; {every}"
    hint = nearest(name, known)
    return f"no {key} {name!r}{hint}" + ("" if hint.endswith(every) else f" {every}")


def _locate(root: Any, loc: Sequence[int | str]) -> _Place:
    """Follow a fault's place through the schema of the run file."""
    names: list[str] = []
    schema = _resolve(root, root)
    for part in loc:
        if "discriminator" in schema:  # here, and only here, stands a tag (or "[key]")
            schema = {"$ref": schema["discriminator"]["mapping"].get(part)}
        elif "anyOf" in schema:
            return _Place(".".join(names), schema, is_union=True)
        else:
            names.append(str(part))
            known = schema.get("properties", {})
            below = schema.get("items" if isinstance(part, int) else "additionalProperties")
            schema = known.get(part, below)
        schema = _resolve(root, schema)
    return _Place(".".join(names), schema)


def _resolve(root: Any, schema: Any) -> Any:
    """Follow references, and an optional section to the section."""
    while isinstance(schema, dict):
        options = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
        if "$ref" in schema:
            schema = root["$defs"].get(str(schema["$ref"]).rsplit("/", 1)[-1], {})
        elif len(options) == 1:
            schema = options[0]
        else:
            return schema
    return {}
