"""The faults that pydantic finds in a run file, in the words of the file: place, nearest name."""

from __future__ import annotations

import difflib
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
        name, place = _locate(schema, loc)
        key = (name, -1 if "anyOf" in place or _is_short(fault) else position)
        groups.setdefault(key, []).append(fault)
    return [f"{name or 'file'}: {_describe(schema, group)}" for (name, _), group in groups.items()]


def nearest(name: str, known: Sequence[str]) -> str:
    """Return what to put behind a fault: the nearest known name, or else all of them."""
    close = _closest(name, known)
    if close is not None:
        return f"; did you mean {close!r}?"
    return f"; known: {', '.join(known)}" if known else ""


def hint(name: str, known: Sequence[str]) -> str:
    """Return what to put behind a fault: the nearest known name, and all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; {f'did you mean {near[0]!r}? ' if near else ''}known: {', '.join(known)}"


def _closest(name: str, known: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)


def listing(faults: Sequence[str]) -> str:
    """Count the faults and list them, a line each."""
    lines = "\n".join(f"  {fault}" for fault in faults)
    return f"{len(faults)} fault{'s' * (len(faults) > 1)}\n{lines}"


def _misspelt(schema: Any, faults: Sequence[dict[str, Any]]) -> set[tuple[int | str, ...]]:
    """Places of missing keys that an unknown key was meant to be: that one is reported."""
    return {
        (*fault["loc"][:-1], meant)
        for fault in faults
        if fault["type"] == "extra_forbidden"
        if (meant := _closest(str(fault["loc"][-1]), _keys(schema, fault))) is not None
    }


def _keys(schema: Any, fault: dict[str, Any]) -> list[str]:
    """The keys of the section that a fault lies in."""
    return list(_locate(schema, fault["loc"][:-1])[1].get("properties", {}))


def _is_short(fault: dict[str, Any]) -> bool:
    """Whether a list ends too early: pydantic calls its next position missing."""
    return fault["type"] == "missing" and isinstance(fault["loc"][-1], int)


def _describe(schema: Any, group: list[dict[str, Any]]) -> str:
    fault = min(group, key=lambda fault: len(fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown key{nearest(str(fault['loc'][-1]), _keys(schema, fault))}"
    if _is_short(fault):
        count = _locate(schema, fault["loc"][:-1])[1].get("minItems", "more")
        wanted = PAIRS.get(str(fault["loc"][-2]), f"{count} values")
        return f"expected {wanted}; got {fault['input']!r}"
    if fault["type"] == "missing":
        return "required, but not given"
    if fault["type"].startswith("union_tag_"):
        return _describe_tag(schema, fault)
    messages = dict.fromkeys(each["msg"].removeprefix("Value error, ") for each in group)
    expected = ", or: ".join(messages)
    if isinstance(fault.get("input"), dict):
        return expected  # the place names the section, which the file shows
    got = repr(fault.get("input"))
    return f"{expected}; got {got if len(got) < 80 else got[:77] + '...'}"


def _describe_tag(schema: Any, fault: dict[str, Any]) -> str:
    """Describe the fault of a section whose `kind` or `name` is missing or unknown."""
    known = list(_locate(schema, fault["loc"])[1]["discriminator"]["mapping"])
    key, name = fault["ctx"]["discriminator"].strip("'"), fault["ctx"].get("tag")
    every = f"known: {', '.join(known)}"
    if name is None:
        return f"give its `{key}`; {every}"
    hint = nearest(name, known)
    return f"no {key} {name!r}{hint}" + ("" if hint.endswith(every) else f" {every}")


def _locate(root: Any, loc: Sequence[int | str]) -> tuple[str, Any]:
    """Follow a fault's place through the schema of the run file.

    Returns:
        its dotted name, without the tags by which pydantic tells the kinds of a section
        apart, and what is allowed there, {} where nothing is; of a value that may be of several
        types, each of which reports its own fault, the name of that value
    """
    names: list[str] = []
    schema = _resolve(root, root)
    for part in loc:
        if "discriminator" in schema:  # here, and only here, stands a tag (or "[key]")
            schema = {"$ref": schema["discriminator"]["mapping"].get(part)}
        elif "anyOf" in schema:
            break
        else:
            names.append(str(part))
            known = schema.get("properties", {})
            below = schema.get("items" if isinstance(part, int) else "additionalProperties")
            schema = known.get(part, below)
        schema = _resolve(root, schema)
    return ".".join(names), schema


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
