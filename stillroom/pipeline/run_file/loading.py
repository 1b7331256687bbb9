"""Reading a run file: one TOML document, checked as a whole before anything runs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from stillroom.pipeline.run_file.faults import describe, listing, nearest
from stillroom.pipeline.run_file.sections import CacheConfig, RunConfig
from stillroom.pipeline.run_file.set_names import EXACT
from stillroom.stages.cache.adapt import AdaptConfig
from stillroom.stages.models.teachers.hf import HfTeacherConfig
from stillroom.storage_specs.artifacts import ARTIFACTS, CODE
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from stillroom.stages.models.teachers.families import TeacherConfig

EXCLUDES = {"train.steps": "epochs", "train.epochs": "steps"}  # what a key takes the place of


def load_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file, apply `a.b=1` overrides, and check everything.

    Raises:
        ConfigError: the file is missing or not TOML, or any number of faults, all of them listed.
    """
    document = read_toml(path, "run file")
    override(document, overrides)
    return parse_run(document, str(path))


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML document; a byte order mark at its start, as some editors write, is no fault.

    Args:
        what: the name of such a file in errors

    Raises:
        ConfigError: the file is missing or not TOML.
    """
    if path.is_dir():
        raise ConfigError(f"{what} {path}: this is a folder; expected a TOML file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{what} {path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path}: not valid TOML: {error}") from error


def parse_run(document: dict[str, Any], origin: str) -> RunConfig:
    """Check a run document (as read from TOML).

    Raises:
        ConfigError: all faults at once, each with its place and, for unknown keys, the nearest.
    """
    run, faults = check_run(document)
    if run is None:
        raise ConfigError(f"{origin}: {listing(faults)}")
    return run


def check_run(document: dict[str, Any]) -> tuple[RunConfig | None, list[str]]:
    """Return the run that a document describes, or all that is wrong with it."""
    faults: list[str] = []
    run: RunConfig | None = None
    try:
        run = with_home_paths(RunConfig.model_validate(document))
    except ValidationError as error:
        faults += describe(error, RunConfig)
    faults += _dangling_names(document)
    faults += _idle_codecs(document)
    return (None if faults else run), faults


def with_absolute_paths(run: RunConfig) -> RunConfig:
    """Return the same run, for a process with another working folder."""
    absolute = _with_paths(run, Path.absolute)
    teachers = {name: _with_absolute_folder(each) for name, each in absolute.teachers.items()}
    return absolute.model_copy(update={"teachers": teachers})


def _with_absolute_folder(teacher: TeacherConfig) -> TeacherConfig:
    """A model named by a string has a path only where there is such a folder."""
    if not isinstance(teacher, HfTeacherConfig) or not teacher.folder.is_dir():
        return teacher
    return teacher.model_copy(update={"path": str(teacher.folder.absolute())})


def with_home_paths(run: RunConfig) -> RunConfig:
    """Return the same run with `~` in its paths replaced by the home folder.

    Raises:
        ConfigError: a path begins with the name of a user that there is not.
    """
    try:
        return _with_paths(run, Path.expanduser)
    except RuntimeError as error:
        raise ConfigError(f"a path begins with ~: {error}") from error


def _with_paths(run: RunConfig, change: Callable[[Path], Path]) -> RunConfig:
    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(changed(each) for each in value)
        return change(value) if isinstance(value, Path) else value

    return RunConfig.model_validate(changed(run.model_dump(exclude_unset=True)))


def override(document: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set dotted keys, each given as `a.b=1`: read as TOML, or as plain text where it is none.

    The last word holds: of keys that exclude each other, one that is set takes the other away.

    Raises:
        ConfigError: one is not KEY=VALUE, or there is no such place.
    """
    for each in overrides:
        key, equals, text = each.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {each!r}: expected KEY=VALUE, as in --set train.seed=1")
        set_key(document, key, _toml_value(text), f"--set {each!r}")


def set_key(document: dict[str, Any], key: str, value: Any, origin: str) -> None:
    """Set one dotted key.

    Args:
        origin: named in errors

    Raises:
        ConfigError: there is no such place: what the key lies in is a value, not a section.
    """
    *parents, last = key.split(".")
    node: Any = document
    for parent in parents:
        if isinstance(node, dict) and parent not in node:
            node[parent] = {}
        node = _step(node, parent, origin)
    if isinstance(node, list):
        position = _position(node, last, origin)
        node[position : position + 1] = [value]
    elif isinstance(node, dict):
        node[last] = value
        node.pop(EXCLUDES.get(key, ""), None)
    else:
        raise ConfigError(f"{origin}: {'.'.join(parents)} is a value, not a section")


def settings_of(given: Sequence[str], option: str) -> dict[str, Any]:
    """Read the NAME=VALUE of an option that may be given several times; values are as for --set.

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


def _step(node: Any, part: str, origin: str) -> Any:
    if isinstance(node, list):
        position = _position(node, part, origin)
        if position == len(node):
            node.append({})
        return node[position]
    if isinstance(node, dict):
        return node[part]
    raise ConfigError(f"{origin}: {part!r} is below a value, not below a section")


def _position(node: list[Any], part: str, origin: str) -> int:
    if not part.isdecimal() or int(part) > len(node):
        there = f"a position from 0 to {len(node) - 1} ({len(node)} adds one)"
        raise ConfigError(f"{origin}: {part!r} should be {there if node else '0, which adds one'}")
    return int(part)


def _dangling_names(document: Mapping[str, Any]) -> Iterator[str]:
    """Find references from one section to a name that another section does not define."""
    sources = list(_table(document, "sources"))
    teachers = list(_table(document, "teachers"))
    cache, train, evaluate = (_table(document, name) for name in ("cache", "train", "evaluate"))
    flows = [*_table(document, "flows"), EXACT]
    wanted: list[tuple[str, Any, list[str], Literal["source", "teacher", "flow model"]]] = []
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
    video = _table(evaluate, "video")
    wanted.append(("evaluate.video.source", video.get("source"), sources, "source"))
    wanted.append(("evaluate.video.flow", video.get("flow"), flows, "flow model"))
    for position, term in enumerate(_sequence(document.get("terms"))):
        term = term if isinstance(term, dict) else {}
        wanted.append((f"terms.{position}.teacher", term.get("teacher"), teachers, "teacher"))
        place = f"terms.{position}.mean_of"
        wanted += [(place, name, teachers, "teacher") for name in _table(term, "mean_of")]
    for place, name, known, what in wanted:
        if isinstance(name, str) and name not in known:
            yield f"{place}: no {what} {name!r} in this file{nearest(name, known)}"


def _idle_codecs(document: Mapping[str, Any]) -> Iterator[str]:
    """Find codecs of artifacts that this run does not cache: most often a layer is misspelt."""
    cache = _table(document, "cache")
    cached = _sequence(cache.get("artifacts", CacheConfig.model_fields["artifacts"].default))
    layer = AdaptConfig.model_fields["layer"].default
    made = [code.get("name") or code.get("layer", layer) for code in _tables(document, "adapt")]
    read = [term.get("teacher_layer", layer) for term in _tables(document, "terms")]
    names = [row.name for row in ARTIFACTS.values() if row.made_by != "teacher"]
    names += [each for each in cached if isinstance(each, str)]
    names += [f"{CODE}/{name}" for name in (*made, *read)]
    # A layered artifact's own name stands for all of its layers.
    names = list(dict.fromkeys([*names, *(name.partition("/")[0] for name in names)]))
    for name in _table(cache, "codecs"):
        if name in names or name.partition("/")[0] not in ARTIFACTS:  # reported already
            continue
        hint = nearest(name, names) if "/" in name else f"; known: {', '.join(names)}"
        yield f"cache.codecs.{name}: this run caches no such artifact{hint}"


def _table(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _tables(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The tables of a list, or of a table, of tables."""
    found = document.get(name)
    each = found.values() if isinstance(found, dict) else _sequence(found)
    return [table for table in each if isinstance(table, dict)]


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
