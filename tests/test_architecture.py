"""The rooms of the package: who may import whom, read off the source without running it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "stillroom"
FLOORS = {"storage_specs": 0, "stages": 1, "pipeline": 2, "commands": 3, "cli": 4}
DOORS = {  # a heavy dependency -> where its import may stand
    "ray": ("pipeline/",),
    "dask": ("pipeline/",),
    "click": ("cli.py", "commands/"),
    "zarr": ("storage_specs/",),
    "obstore": ("storage_specs/files/store_client.py",),
    "torch": ("stages/",),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every imported module of a file, and whether it is imported when the file is."""
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
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append((node.module or "", id(node) not in late))
            found += [(f"{node.module}.{alias.name}", id(node) not in late) for alias in node.names]
    return found


def floor(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "stillroom" or len(parts) == 1:
        return None
    return FLOORS.get(parts[1])


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(path: Path) -> None:
    room = ".".join(("stillroom", *path.relative_to(PACKAGE).with_suffix("").parts))
    here = floor(room)
    for module, _ in imports(path):
        there = floor(module)
        if here is not None and there is not None:
            assert there <= here, f"{room} (floor {here}) imports {module} (floor {there})"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_dependencies_have_one_door(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    for module, _ in imports(path):
        doors = DOORS.get(module.split(".")[0])
        if doors is not None:
            assert place.startswith(doors), f"{place} imports {module}; its door is {doors}"


def test_caching_and_training_meet_only_in_the_cache() -> None:
    for mine, other in (("cache", "train"), ("train", "cache")):
        for path in (PACKAGE / "stages" / mine).rglob("*.py"):
            for module, _ in imports(path):
                forbidden = module.startswith(f"stillroom.stages.{other}")
                assert not forbidden, f"{path} imports {module}"


def test_the_pipeline_and_the_cli_import_heavy_dependencies_late() -> None:
    rooms = [*(PACKAGE / "pipeline").rglob("*.py"), *(PACKAGE / "commands").rglob("*.py")]
    for path in [*rooms, PACKAGE / "cli.py"]:
        for module, at_once in imports(path):
            if module.split(".")[0] in {"ray", "dask", "torch"}:
                assert not at_once, f"{path} imports {module} at its top"


def test_storage_specs_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, importlib, pkgutil, stillroom.storage_specs as s\n"
        "for m in pkgutil.iter_modules(s.__path__):\n"
        "    importlib.import_module(f'{s.__name__}.{m.name}')\n"
        "print(sorted({'torch', 'ray', 'dask', 'click', 'obstore'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
