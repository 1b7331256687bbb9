"""The rooms of the package: who may import whom, read off the source without running it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "stillroom"
FLOORS = {"storage_specs": 0, "stages": 1, "pipeline": 2, "commands": 3, "cli": 4}
DOORS = {  # a heavy dependency -> where its import may stand
    "ray": ("pipeline/",),
    "dask": ("pipeline/",),
    "click": ("cli.py", "commands/"),
    "zarr": ("storage_specs/",),
    "obstore": (
        "storage_specs/files/conditional_put.py",
        "storage_specs/files/remote_store.py",
        "storage_specs/files/store_connection.py",
    ),
    "torch": ("stages/",),
}
LATE = {"ray", "dask", "torch"}  # imported inside functions from the pipeline upwards


class Import(NamedTuple):
    """An import in a file, and whether it runs when the file is imported."""

    path: Path
    module: str
    at_once: bool

    @property
    def place(self) -> str:
        return self.path.relative_to(PACKAGE).as_posix()

    def __str__(self) -> str:
        return f"{self.place} imports {self.module}"


@cache
def imports() -> tuple[Import, ...]:
    """Every import of the package, in functions and under TYPE_CHECKING too."""
    return tuple(each for path in sorted(PACKAGE.rglob("*.py")) for each in imports_of(path))


def imports_of(path: Path) -> list[Import]:
    tree = ast.parse(path.read_text(encoding="utf8"))
    late = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(outer, ast.If) and ast.unparse(outer.test) == "TYPE_CHECKING")
        for inner in ast.walk(outer)
    }
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [Import(path, name, id(node) not in late) for name in names]
    return found


def file_of(module: str) -> Path | None:
    """The file that a module of the package is, if it is one."""
    path = REPOSITORY.joinpath(*module.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def floor(place: str) -> int | None:
    return FLOORS.get(place.split("/", maxsplit=1)[0].removesuffix(".py"))


def circles(uses: dict[str, set[str]]) -> list[str] | None:
    """The nodes of one circle, if there is any."""
    try:
        TopologicalSorter(uses).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def test_every_import_goes_down_or_stays_on_its_floor_and_uses_the_right_door() -> None:
    offenders = []
    for each in imports():
        here, parts = floor(each.place), each.module.split(".")
        there = floor(parts[1]) if parts[0] == "stillroom" and len(parts) > 1 else None
        doors = DOORS.get(parts[0])
        if here is not None and there is not None and there > here:
            offenders.append(f"{each}: up")
        if doors is not None and not each.place.startswith(doors):
            offenders.append(f"{each}: its door is {doors}")
        if parts[0] in LATE and each.at_once and here is not None and here >= FLOORS["pipeline"]:
            offenders.append(f"{each}: at its top, and not in a function")
        if each.place.startswith("stages/cache/") and each.module.startswith(
            "stillroom.stages.train"
        ):
            offenders.append(f"{each}: caching and training meet only in the cache")
        if each.place.startswith("stages/train/") and each.module.startswith(
            "stillroom.stages.cache"
        ):
            offenders.append(f"{each}: caching and training meet only in the cache")
    assert not offenders, "\n".join(offenders)


def test_no_files_import_each_other_in_a_circle_not_even_for_types() -> None:
    uses: dict[str, set[str]] = defaultdict(set)
    for each in imports():
        used = file_of(each.module)
        if used is not None and used != each.path:
            uses[each.place].add(used.relative_to(PACKAGE).as_posix())
    assert len(uses) > 100  # what was read is the package
    assert circles(uses) is None


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None
    assert circles({"a": {"b", "c"}, "b": {"c"}}) is None


def test_no_file_name_stands_in_three_folders() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            places[path.name].append(path.relative_to(PACKAGE).as_posix())
    assert not {name: found for name, found in places.items() if len(found) > 2}


def test_storage_specs_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, importlib, pkgutil, stillroom.storage_specs as s\n"
        "for m in pkgutil.walk_packages(s.__path__, s.__name__ + '.'):\n"
        "    importlib.import_module(m.name)\n"
        "print(sorted({'torch', 'ray', 'dask', 'click', 'obstore'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
