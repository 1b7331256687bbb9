"""Reading a run file: one TOML document, checked as a whole before anything runs."""

from __future__ import annotations

import difflib
import tomllib
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from stillroom.pipeline.config import RunConfig
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


def load_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file, apply `a.b=1` overrides, and check everything.

    Raises:
        ConfigError: the file is missing or not TOML, or any number of faults, all of them listed.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise ConfigError(f"run file {path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"run file {path}: not valid TOML: {error}") from error
    for override in overrides:
        _override(document, override)
    return parse_run(document, str(path))


def parse_run(document: dict[str, Any], origin: str) -> RunConfig:
    """Check a run document (as read from TOML).

    Raises:
        ConfigError: all faults at once, each with its place and, for unknown keys, the nearest.
    """
    faults: list[str] = []
    run: RunConfig | None = None
    try:
        run = RunConfig.model_validate(document)
    except ValidationError as error:
        faults += [_describe(dict(fault)) for fault in error.errors()]
    faults += _dangling_names(document)
    if faults or run is None:
        listing = "\n".join(f"  {fault}" for fault in faults)
        raise ConfigError(f"{origin}: {len(faults)} fault{'s' * (len(faults) > 1)}\n{listing}")
    return run


def _override(document: dict[str, Any], override: str) -> None:
    """Set one dotted key; the value is read as TOML, or as a plain string where it is none."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: expected KEY=VALUE, as in --set train.seed=1")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.split(".")
    node: Any = document
    for parent in parents:
        if isinstance(node, dict) and parent not in node:
            node[parent] = {}
        node = _step(node, parent, override)
    if isinstance(node, list):
        position = _position(node, last, override)
        node[position : position + 1] = [value]
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {override!r}: {'.'.join(parents)} is a value, not a section")


def _step(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        position = _position(node, part, override)
        if position == len(node):
            node.append({})
        return node[position]
    if isinstance(node, dict):
        return node[part]
    raise ConfigError(f"--set {override!r}: {part!r} is below a value, not below a section")


def _position(node: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) > len(node):
        raise ConfigError(
            f"--set {override!r}: {part!r} should be a position from 0 to {len(node)}"
        )
    return int(part)


def _describe(fault: dict[str, Any]) -> str:
    """One line for one pydantic fault: place, what was expected, what was found."""
    union_tags = {"smp", "torchvision", "hf", "python", "camvid", "image_mask", "images", "demo"}
    place = ".".join(str(part) for part in fault["loc"] if part not in union_tags) or "run file"
    if fault["type"] == "extra_forbidden":
        return (
            f"{place}: unknown key{_nearest(str(fault['loc'][-1]), _siblings(fault['loc'][:-1]))}"
        )
    if fault["type"] == "missing":
        return f"{place}: required, but not given"
    got = repr(fault.get("input"))
    return f"{place}: {fault['msg']}; got {got if len(got) < 80 else got[:77] + '...'}"


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""


def _siblings(place: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed in the section at `place`."""
    schema: Any = RunConfig.model_json_schema()
    root = schema
    for part in place:
        schema = _resolve(root, schema)
        if isinstance(part, int):
            schema = schema.get("items", {})
        elif part in schema.get("properties", {}):
            schema = schema["properties"][part]
        elif "additionalProperties" in schema and isinstance(schema["additionalProperties"], dict):
            schema = schema["additionalProperties"]
        else:
            schema = _member(root, schema, part)
    return list(_resolve(root, schema).get("properties", {}))


def _resolve(root: Any, schema: Any) -> Any:
    """Follow references and the one object of an optional section."""
    while True:
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
        elif "discriminator" not in schema and "anyOf" in schema:
            objects = [option for option in schema["anyOf"] if option.get("type") != "null"]
            schema = objects[0]
        else:
            return schema


def _member(root: Any, schema: Any, tag: str) -> Any:
    """The member of a discriminated union which pydantic names by its tag in a fault's place."""
    schema = _resolve(root, schema)
    reference = schema.get("discriminator", {}).get("mapping", {}).get(tag)
    return {"$ref": reference} if reference else schema


def _dangling_names(document: Mapping[str, Any]) -> Iterator[str]:
    """References from one section to a name that another section does not define."""
    sources = list(_table(document, "sources"))
    teachers = list(_table(document, "teachers"))
    cache, train, evaluate = (_table(document, name) for name in ("cache", "train", "evaluate"))
    wanted: list[tuple[str, Any, list[str], Literal["source", "teacher"]]] = []
    for position, name in enumerate(_sequence(cache.get("sources"))):
        wanted.append((f"cache.sources.{position}", name, sources, "source"))
    for stream, settings in _table(train, "streams").items():
        settings = settings if isinstance(settings, dict) else {}
        place = f"train.streams.{stream}" + (".source" if "source" in settings else "")
        wanted.append((place, settings.get("source", stream), sources, "source"))
    if "source" in _table(train, "validation"):
        wanted.append(("train.validation.source", train["validation"]["source"], sources, "source"))
    if "source" in evaluate:
        wanted.append(("evaluate.source", evaluate["source"], sources, "source"))
    for position, term in enumerate(_sequence(document.get("terms"))):
        if isinstance(term, dict) and "teacher" in term:
            wanted.append((f"terms.{position}.teacher", term["teacher"], teachers, "teacher"))
    for place, name, known, what in wanted:
        if isinstance(name, str) and name not in known:
            yield f"{place}: no {what} {name!r} in this file{_nearest(name, known)}"


def _table(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
