"""Reading a run file: one TOML document, checked as a whole before anything runs."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from stillroom.pipeline.config import RunConfig, with_home_paths
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
        run = with_home_paths(RunConfig.model_validate(document))
    except ValidationError as error:
        faults += _describe_all([dict(fault) for fault in error.errors()])
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
    value = _toml_value(text)
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


def settings_of(given: Sequence[str], option: str) -> dict[str, Any]:
    """NAME=VALUE of an option that may be given several times; values are read as by --set.

    Raises:
        ConfigError: one is not NAME=VALUE.
    """
    found = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise ConfigError(f"{option} {each!r}: expected NAME=VALUE")
        found[name] = _toml_value(text)
    return found


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


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


def _describe_all(faults: list[dict[str, Any]]) -> list[str]:
    """A line for every fault; those of one value that may be of several types share theirs."""
    schema = RunConfig.model_json_schema()
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for position, fault in enumerate(faults):
        place = _locate(schema, fault["loc"])
        groups.setdefault((place.name, -1 if place.is_union else position), []).append(fault)
    return [
        f"{name or 'run file'}: {_describe(schema, group)}" for (name, _), group in groups.items()
    ]


def _describe(schema: Any, group: list[dict[str, Any]]) -> str:
    """What was expected, and what was found."""
    fault = min(group, key=lambda fault: len(fault["loc"]))
    if fault["type"] == "extra_forbidden":
        section = _locate(schema, fault["loc"][:-1]).schema
        return f"unknown key{_nearest(str(fault['loc'][-1]), list(section.get('properties', {})))}"
    if fault["type"] == "missing":
        return "required, but not given"
    got = repr(fault.get("input"))
    expected = dict.fromkeys(each["msg"].removeprefix("Value error, ") for each in group)
    return f"{', or: '.join(expected)}; got {got if len(got) < 80 else got[:77] + '...'}"


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""


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


def _dangling_names(document: Mapping[str, Any]) -> Iterator[str]:
    """References from one section to a name that another section does not define."""
    sources = list(_table(document, "sources"))
    teachers = list(_table(document, "teachers"))
    cache, train, evaluate = (_table(document, name) for name in ("cache", "train", "evaluate"))
    wanted: list[tuple[str, Any, list[str], Literal["source", "teacher"]]] = []
    for position, name in enumerate(_sequence(cache.get("sources"))):
        wanted.append((f"cache.sources.{position}", name, sources, "source"))
    wanted += [(f"adapt.{name}", name, teachers, "teacher") for name in _table(document, "adapt")]
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
